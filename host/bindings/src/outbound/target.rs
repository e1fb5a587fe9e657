//! Where a guest's request wants to go, taken from its URI once.
//!
//! Everything later (the policy, the resolver, TLS, the `Host` header, the pool) works from this one reading, so no two
//! of them can disagree about which host is meant. The reading is narrower than RFC 3986: no user information, no
//! percent-encoding in the host, no zone identifiers, no port 0.

use super::error::Error;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest request target accepted, in bytes: what common servers take, with room to spare.
const MAX_PATH: usize = 16 * 1024;
/// Largest header section sent, in bytes of names and values plus the four bytes that separate them on the wire.
const MAX_HEADER_SECTION: usize = 64 * 1024;

/// Fields that belong to one connection and not to the message (RFC 9110, section 7.6.1), and the forms of them that
/// could smuggle a second framing past the first.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// The host of a URI: an address written as such, or a name for the resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Host {
    /// A literal address, IPv6 without its brackets.
    Address(IpAddr),
    /// A name in lower case, as written: a final dot stays, as it tells the resolver not to try search domains.
    Name(String),
}

impl Host {
    /// Reads a host as it stands in an authority: IPv6 in brackets, anything else bare.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(bracketed) = text.strip_prefix('[') {
            let address: Ipv6Addr = bracketed.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        let bare = text.strip_suffix('.').unwrap_or(text);
        let labels_fit = bare.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        (labels_fit && bare.len() <= 253).then(|| Self::Name(text.to_ascii_lowercase()))
    }

    /// The name without its final dot, as certificates and rules write it; `None` for an address.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Address(_) => None,
            Self::Name(name) => Some(name.strip_suffix('.').unwrap_or(name)),
        }
    }

    /// Whether a resolver may read this name as an address in an old notation (`2130706433`, `0x7f.1`, `010.0.0.1`).
    pub(super) fn looks_numeric(&self) -> bool {
        self.name().and_then(|name| name.rsplit('.').next()).is_some_and(|last| {
            let hex = last.strip_prefix("0x");
            last.bytes().all(|b| b.is_ascii_digit())
                || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Name(_) => f.write_str(self.name().unwrap_or_default()),
        }
    }
}

/// The endpoint a request is for: what decides which connection may carry it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    /// Whether the scheme is `https`.
    pub(super) secure: bool,
    /// The host to look up, and to name in the TLS handshake.
    pub(super) host: Host,
    /// The port, the scheme's own where the URI names none. Never 0.
    pub(super) port: u16,
}

impl Endpoint {
    fn parse(uri: &Uri) -> Result<Self, Error> {
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(Error::HttpProtocolError),
        };
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?.as_str();
        let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match authority[host_end..].split_once(':') {
            Some((rest, port)) => (&authority[..host_end + rest.len()], Some(port)),
            None => (authority, None),
        };
        let host = Host::parse(host).ok_or(Error::HttpRequestUriInvalid)?;
        let port = match port {
            None | Some("") => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(Error::HttpRequestUriInvalid)?
            }
            Some(_) => return Err(Error::HttpRequestUriInvalid),
        };
        Ok(Self { secure, host, port })
    }

    /// The authority as sent: the port only where it is not the scheme's own.
    fn authority(&self) -> String {
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => self.host.to_string(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The protocol a connection speaks, which decides how a request is addressed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1: the path in the request line, the authority in `Host`.
    Http1,
    /// HTTP/2: scheme, authority and path as pseudo-headers, no `Host`.
    Http2,
}

/// A request's destination, and the two spellings of its address.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Where to connect.
    pub(super) endpoint: Endpoint,
    origin_form: Uri,
    absolute: Uri,
    host_header: HeaderValue,
}

impl Target {
    /// Reads the destination of `request` and removes from its header what belongs to connections.
    ///
    /// # Errors
    /// `HttpProtocolError` for a scheme other than `http` and `https` and for contradicting lengths,
    /// `HttpRequestUriInvalid`, `HttpRequestUriTooLong`, `HttpRequestMethodInvalid` for `CONNECT` (a tunnel would
    /// reach past the filter), `HttpRequestHeaderSectionSize`.
    pub(super) fn of<B>(request: &mut Request<B>) -> Result<Self, Error> {
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let endpoint = Endpoint::parse(request.uri())?;
        let path = path_and_query(request.uri())?;
        clean_header(request.headers_mut())?;

        let invalid = |_| Error::HttpRequestUriInvalid;
        let authority = endpoint.authority();
        let host_header = HeaderValue::from_str(&authority).map_err(|_| Error::HttpRequestUriInvalid)?;
        let authority: Authority = authority.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
        let origin_form = Uri::builder().path_and_query(path.clone()).build().map_err(invalid)?;
        let scheme = if endpoint.secure { Scheme::HTTPS } else { Scheme::HTTP };
        let absolute =
            Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().map_err(invalid)?;
        Ok(Self { endpoint, origin_form, absolute, host_header })
    }

    /// Addresses `request` for a connection that speaks `protocol`. May be applied again for another connection.
    pub(super) fn address<B>(&self, request: &mut Request<B>, protocol: Protocol) {
        match protocol {
            Protocol::Http1 => {
                *request.uri_mut() = self.origin_form.clone();
                *request.version_mut() = Version::HTTP_11;
                request.headers_mut().insert(header::HOST, self.host_header.clone());
            }
            Protocol::Http2 => {
                *request.uri_mut() = self.absolute.clone();
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(header::HOST);
            }
        }
    }
}

fn path_and_query(uri: &Uri) -> Result<PathAndQuery, Error> {
    let written = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if written.len() > MAX_PATH {
        return Err(Error::HttpRequestUriTooLong);
    }
    match written.as_bytes().first() {
        None => Ok(PathAndQuery::from_static("/")),
        Some(b'/') => written.parse().map_err(|_| Error::HttpRequestUriInvalid),
        Some(b'?') => format!("/{written}").parse().map_err(|_| Error::HttpRequestUriInvalid),
        // Anything else in a request line (`*`, an absolute URI) would address something other than this path here.
        Some(_) => Err(Error::HttpRequestUriInvalid),
    }
}

fn clean_header(fields: &mut HeaderMap) -> Result<(), Error> {
    for name in &HOP_BY_HOP {
        fields.remove(name);
    }
    // `TE: trailers` is the one value that HTTP/2 permits, and gRPC insists on it.
    if fields.get(header::TE).is_some_and(|value| value != "trailers") {
        fields.remove(header::TE);
    }
    if fields.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(Error::HttpProtocolError);
    }
    let size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > MAX_HEADER_SECTION {
        return Err(Error::HttpRequestHeaderSectionSize(u32::try_from(size).ok()));
    }
    Ok(())
}

/// Removes from a response what belonged to the connection it came on.
pub(super) fn clean_response(fields: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        fields.remove(name);
    }
}
