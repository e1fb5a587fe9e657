//! The worker's `env`: what its binding file grants it.
//!
//! The host is asked on first use and once per instance, because bindings are fixed before the first request and most
//! handlers read one of them or none.

use crate::ai::Ai;
use crate::{Error, Result, sys};
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// The bindings of this worker.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[fetch]
/// async fn main(_req: Request, env: Env, _ctx: Context) -> Result<Response> {
///     Response::ok(format!("hello from {}", env.var("CITY")?))
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Env {
    _private: (),
}

/// What a binding is.
///
/// ```no_run
/// # fn example(env: host_sdk::Env) {
/// let has_ai = env.bindings().any(|(_, kind)| kind == host_sdk::BindingKind::Ai);
/// # let _ = has_ai;
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BindingKind {
    /// A variable that is a string.
    Text,
    /// A variable of another type.
    Json,
    /// A secret.
    Secret,
    /// An `[ai]` binding.
    Ai,
}

/// One entry of `env` as the host gives it.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    pub(crate) kind: BindingKind,
    pub(crate) value: String,
}

impl Env {
    /// The models, through the `[ai]` binding called `name`.
    ///
    /// # Errors
    /// When the binding file grants no such binding; the message holds the lines to add.
    ///
    /// ```no_run
    /// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
    /// let ai = env.ai("AI")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn ai(&self, name: &str) -> Result<Ai> {
        self.find(name, BindingKind::Ai, |kind| kind == BindingKind::Ai)?;
        Ok(Ai::new(name))
    }

    /// A variable. One that is not a string gives its JSON text.
    ///
    /// # Errors
    /// When the binding file sets no such variable.
    ///
    /// ```no_run
    /// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
    /// let city: String = env.var("CITY")?.to_string();
    /// # Ok(())
    /// # }
    /// ```
    pub fn var(&self, name: &str) -> Result<Var> {
        self.find(name, BindingKind::Text, |kind| matches!(kind, BindingKind::Text | BindingKind::Json)).map(Var)
    }

    /// A secret. It shows as `Secret(…)` when it is printed for debugging.
    ///
    /// # Errors
    /// When no such secret is set.
    ///
    /// ```no_run
    /// # fn example(env: host_sdk::Env, token: &str) -> host_sdk::Result<()> {
    /// let allowed = env.secret("TOKEN")?.as_ref() == token;
    /// # let _ = allowed;
    /// # Ok(())
    /// # }
    /// ```
    pub fn secret(&self, name: &str) -> Result<Secret> {
        self.find(name, BindingKind::Secret, |kind| kind == BindingKind::Secret).map(Secret)
    }

    /// A variable that is a table, an array, a number or a boolean in the binding file, decoded into `T`.
    ///
    /// # Errors
    /// When the binding file sets no such variable, or one of another shape.
    ///
    /// ```no_run
    /// #[derive(serde::Deserialize)]
    /// struct Limits { per_minute: u32, burst: u32 }
    ///
    /// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
    /// let limits: Limits = env.object_var("LIMITS")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn object_var<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let text = self.find(name, BindingKind::Json, |kind| kind == BindingKind::Json)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A binding of the kind `kind` (`vectorize`, `queue`) that is called by method.
    ///
    /// # Errors
    /// When the binding file grants no such binding; the message holds the lines to add.
    ///
    /// ```no_run
    /// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
    /// let index = env.binding("NOTES", "vectorize")?;
    /// # let _ = index;
    /// # Ok(())
    /// # }
    /// ```
    pub fn binding(&self, name: &str, kind: &str) -> Result<crate::Binding> {
        crate::Binding::new(name, kind)
    }

    /// A queue to send to.
    ///
    /// # Errors
    /// When the binding file grants no such binding; the message holds the lines to add.
    ///
    /// ```no_run
    /// # async fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
    /// env.queue("JOBS")?.send("hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn queue(&self, name: &str) -> Result<crate::Queue> {
        Ok(crate::Queue::new(self.binding(name, "queue")?))
    }

    /// The vector index of the `[[vectorize]]` binding called `name`.
    ///
    /// # Errors
    /// When the binding file grants no such binding; the message holds the lines to add.
    ///
    /// ```no_run
    /// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
    /// let notes = env.vectorize("NOTES")?;
    /// # let _ = notes;
    /// # Ok(())
    /// # }
    /// ```
    pub fn vectorize(&self, name: &str) -> Result<crate::vectorize::Vectorize> {
        Ok(crate::vectorize::Vectorize::new(self.binding(name, "vectorize")?))
    }

    /// The name and kind of every binding, sorted by name. Values are not shown, so that this can be logged.
    ///
    /// ```no_run
    /// # fn example(env: host_sdk::Env) {
    /// for (name, kind) in env.bindings() {
    ///     host_sdk::console_log!("{name}: {kind:?}");
    /// }
    /// # }
    /// ```
    pub fn bindings(&self) -> impl Iterator<Item = (String, BindingKind)> {
        let all = bindings();
        (0..all.len()).filter_map(move |index| all.get(index).map(|binding| (binding.name.clone(), binding.kind)))
    }

    fn find(&self, name: &str, wanted: BindingKind, fits: impl Fn(BindingKind) -> bool) -> Result<String> {
        match bindings().iter().find(|binding| binding.name == name && fits(binding.kind)) {
            Some(binding) => Ok(binding.value.clone()),
            None => Err(Error::MissingBinding(sys::explain_missing(name, wanted))),
        }
    }
}

fn bindings() -> Rc<Vec<Binding>> {
    thread_local! {
        static BINDINGS: std::cell::OnceCell<Rc<Vec<Binding>>> = const { std::cell::OnceCell::new() };
    }
    BINDINGS.with(|cell| Rc::clone(cell.get_or_init(|| Rc::new(sys::bindings()))))
}

/// The value of a variable.
///
/// ```no_run
/// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
/// let limit: u32 = env.var("LIMIT")?.parse().unwrap_or(10);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Var(String);

impl fmt::Display for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for Var {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The value of a secret. Only [`Display`](fmt::Display), [`Deref`] and `as_ref` show it; `{:?}` does not.
///
/// ```no_run
/// # fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
/// let header = format!("Bearer {}", env.secret("TOKEN")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Secret {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = Secret("hunter2".into());
        assert!(!format!("{secret:?} {:?}", Some(&secret)).contains("hunter2"));
        assert_eq!(secret.to_string(), "hunter2");
    }
}
