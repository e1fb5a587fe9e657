//! Bindings that are called by method: JSON arguments go in, a JSON answer comes out.

use crate::{Result, sys};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A binding that is called by method, for those that this crate has no type of its own for.
///
/// ```no_run
/// # async fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
/// let index = env.binding("NOTES", "vectorize")?;
/// let described: serde_json::Value = index.call("describe", &()).await?;
/// # let _ = described;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Binding {
    name: String,
}

impl Binding {
    pub(crate) fn new(name: &str, kind: &str) -> Result<Self> {
        sys::check_binding(name, kind)?;
        Ok(Self { name: name.to_owned() })
    }

    /// Calls `method` with `arguments`: a tuple of them, or `&()` for none.
    ///
    /// # Errors
    /// When the host refuses the call, or its answer is not a `T`.
    ///
    /// ```no_run
    /// # async fn example(index: host_sdk::Binding) -> host_sdk::Result<()> {
    /// let found: serde_json::Value = index.call("getByIds", &(["a", "b"],)).await?;
    /// # let _ = found;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn call<T: DeserializeOwned>(&self, method: &str, arguments: &impl Serialize) -> Result<T> {
        let arguments = match serde_json::to_value(arguments)? {
            serde_json::Value::Null => "[]".to_owned(),
            arguments => arguments.to_string(),
        };
        Ok(serde_json::from_str(&sys::call(&self.name, method, &arguments).await?)?)
    }
}
