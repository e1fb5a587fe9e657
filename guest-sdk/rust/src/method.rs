//! HTTP methods.

use std::fmt;
use std::str::FromStr;

/// An HTTP method.
///
/// ```
/// use host_sdk::Method;
///
/// assert_eq!("post".parse::<Method>()?, Method::Post);
/// assert_eq!(Method::Get.to_string(), "GET");
/// # Ok::<(), host_sdk::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `CONNECT`
    Connect,
    /// `TRACE`
    Trace,
    /// Any other method, spelled as it was sent.
    Other(String),
}

impl Method {
    /// The method as it stands in a request.
    ///
    /// ```
    /// # use host_sdk::Method;
    /// assert_eq!(Method::Delete.as_str(), "DELETE");
    /// ```
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other(name) => name,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The well-known methods are read in any case, as `fetch` does; any other keeps its spelling.
impl FromStr for Method {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const KNOWN: [Method; 9] = [
            Method::Get,
            Method::Head,
            Method::Post,
            Method::Put,
            Method::Patch,
            Method::Delete,
            Method::Options,
            Method::Connect,
            Method::Trace,
        ];
        if let Some(known) = KNOWN.iter().find(|known| known.as_str().eq_ignore_ascii_case(text)) {
            return Ok(known.clone());
        }
        if text.is_empty() || !text.bytes().all(crate::headers::is_token_byte) {
            return Err(format!("`{text}` is not an HTTP method").into());
        }
        Ok(Method::Other(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_methods_are_read_in_any_case_and_others_keep_their_spelling() {
        assert_eq!("pAtCh".parse::<Method>().unwrap(), Method::Patch);
        assert_eq!("Purge".parse::<Method>().unwrap(), Method::Other("Purge".into()));
        assert!("".parse::<Method>().is_err());
        assert!("GET /".parse::<Method>().is_err());
    }
}
