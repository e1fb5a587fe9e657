//! Where a server is: `http://host:port/base`, read once.

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

/// The address of a server, to whose path the paths of requests are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    secure: bool,
    host: String,
    port: u16,
    /// Without a slash at its end.
    base: String,
}

/// A text that is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write an address as in \"http://127.0.0.1:8000/v1\"")]
pub struct AddressError(&'static str);

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError("this is no address"))?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(AddressError("an address starts with http:// or https://")),
        };
        let authority = uri.authority().ok_or(AddressError("the address has no host"))?;
        if authority.as_str().contains('@') {
            return Err(AddressError("an address holds no password; name a secret in `key`"));
        }
        if uri.query().is_some() {
            return Err(AddressError("the address of a server has no query"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(AddressError("the address has no host"));
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port, base: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.base)
    }
}

impl Address {
    /// Whether TLS is spoken.
    pub(crate) fn secure(&self) -> bool {
        self.secure
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What stands in the header `host`.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// The path of a request: `path` below the address's own. None for one that no request can have.
    pub(crate) fn path(&self, path: &str) -> Option<PathAndQuery> {
        let path = path.trim_start_matches('/');
        let slash = if path.is_empty() || path.starts_with('?') { "" } else { "/" };
        let whole = format!("{}{slash}{path}", self.base);
        // Two dots would leave the part of the server that the operator named.
        let stays = whole.split('?').next().is_some_and(|path| !path.split('/').any(is_parent));
        let whole = if whole.is_empty() { "/".to_owned() } else { whole };
        whole.parse().ok().filter(|_| stays)
    }
}

/// Whether a part of a path is two dots, however they are written.
fn is_parent(part: &str) -> bool {
    part.to_ascii_lowercase().replace("%2e", ".") == ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
            ("https://api.example.com/v1", "https://api.example.com/v1"),
            ("http://[::1]:9000", "http://[::1]:9000"),
            ("https://a.b:443", "https://a.b"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in ["", "127.0.0.1:8000", "ftp://a", "http://u:p@a/", "http://a/?q=1", "/v1", "http://"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn paths_stay_below_the_address() {
        let address: Address = "http://a/v1".parse().unwrap();
        assert_eq!(address.path("/models").unwrap(), "/v1/models");
        assert_eq!(address.path("models?x=1").unwrap(), "/v1/models?x=1");
        assert_eq!("http://a".parse::<Address>().unwrap().path("").unwrap(), "/");
        for path in ["../admin", "a/../../b", "%2E%2e/admin", "a b"] {
            assert!(address.path(path).is_none(), "{path}");
        }
    }
}
