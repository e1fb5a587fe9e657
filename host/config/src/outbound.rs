//! What a worker may connect to.
//!
//! A guest's outbound requests start from inside the host's network, so a guest could otherwise reach what the network
//! hides: metadata services, databases, the host itself. Private addresses are therefore denied unless the binding
//! file names them. This module checks how they are written and brings each to one spelling; which addresses are
//! private, and that the address checked is the address dialled, is the business of whoever dials.

use std::net::IpAddr;

use serde::Serialize;

use crate::route::is_host;

/// `[outbound]`: what a worker may connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outbound {
    /// Whether the worker may connect to anything at all. Key `enabled`, default true.
    pub enabled: bool,
    /// Private destinations it may reach nevertheless: each an address, a network or a host name, with or without a
    /// port (`127.0.0.1:9000`, `[::1]:80`, `10.0.0.0/8`, `db.internal:5432`). Key `allow_private`, default none.
    pub allow_private: Vec<String>,
}

impl Default for Outbound {
    fn default() -> Self {
        Outbound { enabled: true, allow_private: Vec::new() }
    }
}

/// Why a text is no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DestinationError {
    #[error("a port is a number from 1 to 65535")]
    Port,
    #[error("the prefix of an IPv4 network is 0 to 32, of an IPv6 network 0 to 128")]
    Prefix,
    #[error(
        "the address has bits set after its prefix: write `{network}` for the network, `{address}` for the address"
    )]
    HostBits { network: String, address: IpAddr },
    #[error(
        "expected an address (\"10.0.0.5\"), a network (\"10.0.0.0/8\") or a host name (\"db.internal\"), each with or \
         without a port (\"db.internal:80\", \"[fd00::5]:80\")"
    )]
    Target,
}

/// Checks a private destination and brings it to its one spelling.
pub(crate) fn destination(text: &str) -> Result<String, DestinationError> {
    let (target, port) = split_port(text)?;
    let (target, v6) = match target.split_once('/') {
        Some((address, prefix)) => network(address, prefix)?,
        None => match target.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                (address.to_string(), address.is_ipv6())
            }
            Err(_) => (name(target)?, false),
        },
    };
    Ok(match port {
        Some(port) if v6 => format!("[{target}]:{port}"),
        Some(port) => format!("{target}:{port}"),
        None => target,
    })
}

/// Splits `host:port`, `[v6]:port` and what has no port. A text with several colons and no bracket is IPv6.
fn split_port(text: &str) -> Result<(&str, Option<u16>), DestinationError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, after) =
            rest.split_once(']').filter(|(inner, _)| inner.contains(':')).ok_or(DestinationError::Target)?;
        return match after.strip_prefix(':') {
            Some(digits) => Ok((inner, Some(port(digits)?))),
            None if after.is_empty() => Ok((inner, None)),
            None => Err(DestinationError::Target),
        };
    }
    match text.split_once(':') {
        Some((target, digits)) if !digits.contains(':') => Ok((target, Some(port(digits)?))),
        _ => Ok((text, None)),
    }
}

fn port(digits: &str) -> Result<u16, DestinationError> {
    number(digits).filter(|port| *port > 0).ok_or(DestinationError::Port)
}

/// Digits alone: the standard parser would also take a sign.
fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn network(address: &str, prefix: &str) -> Result<(String, bool), DestinationError> {
    let address: IpAddr = address.parse().map_err(|_| DestinationError::Target)?;
    let prefix: u8 = number(prefix).ok_or(DestinationError::Prefix)?;
    let lowest = masked(address, prefix).ok_or(DestinationError::Prefix)?;
    let network = format!("{lowest}/{prefix}");
    if lowest != address {
        return Err(DestinationError::HostBits { network, address });
    }
    Ok((network, address.is_ipv6()))
}

/// The address with the bits after `prefix` cleared; none if it has fewer bits than `prefix`.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let rest = 32u32.checked_sub(prefix.into())?;
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let rest = 128u32.checked_sub(prefix.into())?;
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::V6((address.to_bits() & mask).into()))
        }
    }
}

fn name(text: &str) -> Result<String, DestinationError> {
    let name = text.to_ascii_lowercase();
    // A name whose last label is a number is an address gone wrong (WHATWG URL, "ends in a number").
    let numeric = name.rsplit('.').next().is_none_or(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if numeric || !is_host(&name) { Err(DestinationError::Target) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_have_one_spelling() {
        let cases = [
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("FD00::/8", "fd00::/8"),
            ("[::1]:80", "[::1]:80"),
            ("[::1]", "::1"),
            ("[fd00::/8]:80", "[fd00::/8]:80"),
            ("DB.internal:5432", "db.internal:5432"),
            ("localhost", "localhost"),
        ];
        for (text, expected) in cases {
            assert_eq!(destination(text).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_destination_says_why() {
        let host_bits =
            DestinationError::HostBits { network: "10.0.0.0/8".into(), address: "10.0.0.1".parse().unwrap() };
        let cases = [
            ("", DestinationError::Target),
            ("10.0.0", DestinationError::Target),
            ("1.2.3.4.5", DestinationError::Target),
            ("10.0.0.1:0", DestinationError::Port),
            ("10.0.0.1:+1", DestinationError::Port),
            ("10.0.0.1:http", DestinationError::Port),
            ("10.0.0.0/33", DestinationError::Prefix),
            ("::/129", DestinationError::Prefix),
            ("10.0.0.1/8", host_bits),
            ("http://x", DestinationError::Port),
            ("[::1", DestinationError::Target),
            ("[db]:80", DestinationError::Target),
            ("*", DestinationError::Target),
            ("a b", DestinationError::Target),
        ];
        for (text, expected) in cases {
            assert_eq!(destination(text).unwrap_err(), expected, "{text}");
        }
    }
}
