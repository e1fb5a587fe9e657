//! HTTP headers.
//!
//! A list of names and values in the order they came, since a request has a handful of them: a scan beats a map. Values
//! are bytes; as text they are UTF-8 where they can be and Latin-1 otherwise, which is what browsers do.

use crate::{Error, Result};

/// The headers of a request or a response. Names compare without regard to case.
///
/// ```
/// use host_sdk::Headers;
///
/// let mut headers = Headers::new();
/// headers.append("Accept", "text/html")?;
/// headers.append("accept", "text/plain")?;
/// assert_eq!(headers.get("ACCEPT")?.as_deref(), Some("text/html, text/plain"));
/// # Ok::<(), host_sdk::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    entries: Vec<(String, Vec<u8>)>,
}

impl Headers {
    /// No headers.
    ///
    /// ```
    /// assert!(host_sdk::Headers::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn from_entries(entries: Vec<(String, Vec<u8>)>) -> Self {
        Self { entries }
    }

    pub(crate) fn into_entries(self) -> Vec<(String, Vec<u8>)> {
        self.entries
    }

    /// Sets a header that the crate itself made up, so that its syntax needs no check.
    pub(crate) fn set_known(&mut self, name: &'static str, value: &str) {
        self.remove(name);
        self.entries.push((name.to_owned(), value.as_bytes().to_vec()));
    }

    /// The values of `name`, joined with `, `, or none.
    ///
    /// # Errors
    /// When `name` is no header name.
    ///
    /// ```
    /// # use host_sdk::Headers;
    /// assert_eq!(Headers::new().get("accept")?, None);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn get(&self, name: &str) -> Result<Option<String>> {
        let values = self.get_all(name)?;
        Ok(if values.is_empty() { None } else { Some(values.join(", ")) })
    }

    /// Every value of `name`, in order.
    ///
    /// # Errors
    /// When `name` is no header name.
    ///
    /// ```
    /// # use host_sdk::Headers;
    /// let mut headers = Headers::new();
    /// headers.append("set-cookie", "a=1")?;
    /// headers.append("set-cookie", "b=2")?;
    /// assert_eq!(headers.get_all("Set-Cookie")?, ["a=1", "b=2"]);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn get_all(&self, name: &str) -> Result<Vec<String>> {
        check_name(name)?;
        Ok(self.matching(name).map(|value| text_of(value)).collect())
    }

    /// Whether there is a header `name`.
    ///
    /// # Errors
    /// When `name` is no header name.
    ///
    /// ```
    /// # use host_sdk::Headers;
    /// assert!(!Headers::new().has("accept")?);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn has(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        Ok(self.matching(name).next().is_some())
    }

    /// Replaces every value of `name` by one.
    ///
    /// # Errors
    /// When the name or the value breaks HTTP's syntax.
    ///
    /// ```
    /// # use host_sdk::Headers;
    /// let mut headers = Headers::new();
    /// headers.set("cache-control", "no-store")?;
    /// assert!(headers.set("a b", "").is_err());
    /// assert!(headers.set("a", "line\r\nbreak").is_err());
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let value = checked(name, value)?;
        self.remove(name);
        self.entries.push((name.to_owned(), value));
        Ok(())
    }

    /// Adds a value to those `name` has.
    ///
    /// # Errors
    /// When the name or the value breaks HTTP's syntax.
    ///
    /// ```
    /// # use host_sdk::Headers;
    /// let mut headers = Headers::new();
    /// headers.append("vary", "accept")?;
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn append(&mut self, name: &str, value: &str) -> Result<()> {
        let value = checked(name, value)?;
        self.entries.push((name.to_owned(), value));
        Ok(())
    }

    /// Removes every value of `name`.
    ///
    /// # Errors
    /// When `name` is no header name.
    ///
    /// ```
    /// # use host_sdk::Headers;
    /// let mut headers = Headers::new();
    /// headers.set("etag", "\"1\"")?;
    /// headers.delete("ETag")?;
    /// assert!(headers.is_empty());
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn delete(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        self.remove(name);
        Ok(())
    }

    /// Whether there is no header at all.
    ///
    /// ```
    /// assert!(host_sdk::Headers::default().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every name, in lower case, with its value, in the order they came.
    ///
    /// ```
    /// # use host_sdk::Headers;
    /// let mut headers = Headers::new();
    /// headers.set("X-One", "1")?;
    /// assert_eq!(headers.entries().collect::<Vec<_>>(), [("x-one".to_owned(), "1".to_owned())]);
    /// # Ok::<(), host_sdk::Error>(())
    /// ```
    pub fn entries(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.entries.iter().map(|(name, value)| (name.to_ascii_lowercase(), text_of(value)))
    }

    /// Drops the headers that belong to one connection (RFC 9110, section 7.6.1), which a host refuses to send.
    pub(crate) fn remove_hop_by_hop(&mut self) {
        const HOP_BY_HOP: [&str; 9] = [
            "connection",
            "host",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
        ];
        let listed: Vec<String> = self
            .matching("connection")
            .flat_map(|value| text_of(value).split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>())
            .collect();
        self.entries.retain(|(name, _)| {
            !HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name))
                && !listed.iter().any(|hop| hop.eq_ignore_ascii_case(name))
        });
    }

    fn matching<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Vec<u8>> + 'a {
        self.entries.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn remove(&mut self, name: &str) {
        self.entries.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }
}

/// A byte of a token (RFC 9110, section 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn check_name(name: &str) -> Result<()> {
    if !name.is_empty() && name.bytes().all(is_token_byte) {
        return Ok(());
    }
    Err(Error::Header { name: name.escape_debug().to_string(), reason: "not a header name".into() })
}

fn checked(name: &str, value: &str) -> Result<Vec<u8>> {
    check_name(name)?;
    let value = value.trim_matches([' ', '\t', '\r', '\n']);
    if value.bytes().any(|byte| byte == 0x7f || (byte < 0x20 && byte != b'\t')) {
        return Err(Error::Header { name: name.to_owned(), reason: "the value holds a control character".into() });
    }
    Ok(value.as_bytes().to_vec())
}

fn text_of(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|&byte| char::from(byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_all_values_whatever_their_case() {
        let mut headers = Headers::new();
        headers.append("X-A", "1").unwrap();
        headers.append("x-a", "2").unwrap();
        headers.set("x-A", " 3 ").unwrap();
        assert_eq!(headers.get_all("X-a").unwrap(), ["3"]);
    }

    #[test]
    fn names_and_values_that_could_split_a_message_are_refused() {
        let mut headers = Headers::new();
        for name in ["", "a b", "a:b", "é", "a\r\n"] {
            assert!(headers.set(name, "x").is_err(), "{name:?}");
            assert!(headers.get(name).is_err(), "{name:?}");
        }
        for value in ["a\r\nb: c", "a\0b", "a\nb", "\u{7f}x"] {
            assert!(headers.append("a", value).is_err(), "{value:?}");
        }
        assert!(headers.is_empty());
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_read_as_latin_1() {
        let headers = Headers::from_entries(vec![("a".into(), vec![0x63, 0xe9])]);
        assert_eq!(headers.get("a").unwrap().unwrap(), "cé");
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_by_connection_are_dropped() {
        let mut headers = Headers::new();
        for (name, value) in
            [("Connection", "close, X-Hop"), ("x-hop", "1"), ("TE", "trailers"), ("content-type", "text/plain")]
        {
            headers.set(name, value).unwrap();
        }
        headers.remove_hop_by_hop();
        assert_eq!(headers.entries().map(|(name, _)| name).collect::<Vec<_>>(), ["content-type"]);
    }
}
