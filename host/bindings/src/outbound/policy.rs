//! Who a worker may call: the public internet, and what its binding file adds.
//!
//! A worker runs inside somebody's network, and a URL is data. Without a filter, a worker that fetches what it is told
//! to fetch lends its caller this machine's loopback services, its neighbours, and the cloud's metadata endpoint with
//! the machine's credentials. So private destinations are refused unless the binding file names them. The verdict is
//! about the address that is going to be dialled, not about the name: a name can resolve to anything, and to something
//! else a moment later. A rule that names a host trusts that name's owner with every address the name resolves to.
//!
//! Public addresses of this machine itself pass: from here they look like any other. A service that must not be reached
//! by workers belongs on loopback, not behind a firewall that only faces outwards.

use super::address::{Block, special_use};
use super::error::Error;
use super::target::{Endpoint, Host};
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Requests one worker may have in flight: enough for any honest fan-out, few enough that one worker cannot take all
/// file descriptors of the process.
const EXCHANGES_PER_WORKER: usize = 256;
/// Destinations whose refusal is logged as a warning; refusals of further ones are logged at debug level, so that a
/// guest cannot fill the log.
const WARNED_DESTINATIONS: usize = 64;

static NEXT_POLICY: AtomicU64 = AtomicU64::new(0);

/// What one worker may reach. Cheap to clone; clones are the same policy and share connections.
///
/// Two policies never share a connection, even where both would allow it: a connection can carry state of the worker
/// that opened it.
#[derive(Clone)]
pub struct Policy(Arc<Terms>);

struct Terms {
    id: u64,
    enabled: bool,
    rules: Vec<Rule>,
    exchanges: Arc<Semaphore>,
    warned: Mutex<HashSet<String>>,
}

/// An entry of `allow_private`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    scope: Scope,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Name(String),
    Block(Block),
}

/// An entry of `allow_private` that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Neither an address, nor a block of addresses, nor a host name.
    #[error(
        "`{rule}` in [outbound] allow_private is no destination; write a host (\"db.internal\"), an address (\"10.0.0.5\", \
         \"fd00::5\") or a block (\"10.0.0.0/8\"), each with an optional port (\"db.internal:80\", \"[fd00::5]:80\")"
    )]
    Malformed {
        /// The entry as written.
        rule: String,
    },
    /// The part after the colon is no port.
    #[error("`{rule}` in [outbound] allow_private has the port `{port}`; a port is a number from 1 to 65535")]
    Port {
        /// The entry as written.
        rule: String,
        /// The part that should be a port.
        port: String,
    },
    /// The part after the slash is no prefix length for that address.
    #[error(
        "`{rule}` in [outbound] allow_private has the prefix length `{prefix}`; it is a number up to 32 for IPv4 and up to \
         128 for IPv6 (an IPv6 block with a port is written \"[fd00::/8]:443\")"
    )]
    Prefix {
        /// The entry as written.
        rule: String,
        /// The part that should be a prefix length.
        prefix: String,
    },
    /// A block whose address has bits set beyond the prefix, so that it is unclear what is meant.
    #[error(
        "`{rule}` in [outbound] allow_private names an address inside the block {block}; write \"{block}\" for the whole \
         block or \"{address}\" for the one address"
    )]
    InsideBlock {
        /// The entry as written.
        rule: String,
        /// The block that contains the address.
        block: String,
        /// The address.
        address: IpAddr,
    },
    /// An address in a notation other than four decimal numbers.
    #[error(
        "`{rule}` in [outbound] allow_private is an address in an old notation; write four decimal numbers (\"127.0.0.1\")"
    )]
    Numeric {
        /// The entry as written.
        rule: String,
    },
}

impl Policy {
    /// A policy from the `[outbound]` table of a binding file. Where `enabled` is false nothing may be reached at all;
    /// `allow_private` lists destinations that may be reached although they are not public: `host[:port]`,
    /// `address[:port]`, `block[:port]`, IPv6 in brackets where a port follows.
    ///
    /// # Errors
    /// The first entry that cannot be understood. To report all faults of a file, try its entries one by one.
    pub fn new(enabled: bool, allow_private: &[String]) -> Result<Self, PolicyError> {
        let rules = allow_private.iter().map(|rule| Rule::parse(rule)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(Arc::new(Terms {
            id: NEXT_POLICY.fetch_add(1, Ordering::Relaxed),
            enabled,
            rules,
            exchanges: Arc::new(Semaphore::new(EXCHANGES_PER_WORKER)),
            warned: Mutex::default(),
        })))
    }

    /// The identity of this policy: equal for clones, different for any two made by [`Policy::new`].
    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    /// The places for requests in flight of the worker that this policy belongs to.
    pub(super) fn exchanges(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.exchanges)
    }

    /// Refuses everything where outbound requests are switched off.
    pub(super) fn admit(&self, endpoint: &Endpoint) -> Result<(), Error> {
        if self.0.enabled {
            return Ok(());
        }
        self.report(endpoint, &Denial::Disabled);
        Err(Error::HttpRequestDenied)
    }

    /// Whether a connection for `endpoint` may be made to `address`.
    pub(super) fn permits(&self, endpoint: &Endpoint, address: SocketAddr) -> Result<(), Denial> {
        if !self.0.enabled {
            return Err(Denial::Disabled);
        }
        let ip = address.ip().to_canonical();
        let Some(reason) = special_use(ip) else { return Ok(()) };
        let allowed = self.0.rules.iter().any(|rule| rule.allows(&endpoint.host, ip, address.port()));
        if allowed { Ok(()) } else { Err(Denial::NotPublic { address: ip, reason }) }
    }

    /// Those of `addresses` that may be dialled for `endpoint`, in their canonical family and without scope.
    ///
    /// # Errors
    /// `HttpRequestDenied` where there were addresses and none passed, `DestinationNotFound` where there were none.
    pub(super) fn filter(&self, endpoint: &Endpoint, addresses: &[SocketAddr]) -> Result<Vec<SocketAddr>, Error> {
        let mut permitted = Vec::new();
        let mut first_denial = None;
        for address in addresses {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            match self.permits(endpoint, address) {
                Ok(()) if permitted.contains(&address) => {}
                Ok(()) => permitted.push(address),
                Err(denial) => first_denial = first_denial.or(Some(denial)),
            }
        }
        match (permitted.is_empty(), first_denial) {
            (false, _) => Ok(permitted),
            (true, None) => Err(Error::DestinationNotFound),
            (true, Some(denial)) => {
                self.report(endpoint, &denial);
                Err(Error::HttpRequestDenied)
            }
        }
    }

    fn report(&self, endpoint: &Endpoint, denial: &Denial) {
        let advice = denial.advice(endpoint);
        let first_time = {
            let mut warned = self.0.warned.lock().unwrap_or_else(PoisonError::into_inner);
            warned.len() < WARNED_DESTINATIONS && warned.insert(endpoint.to_string())
        };
        if first_time {
            tracing::warn!(
                "outbound request to {endpoint} denied: {denial}. To allow it, put into the binding file:\n{advice}"
            );
        } else {
            tracing::debug!("outbound request to {endpoint} denied: {denial}");
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("enabled", &self.0.enabled).field("rules", &self.0.rules).finish_non_exhaustive()
    }
}

/// Why a destination was refused. For the log only: a guest learns no more than that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// Outbound requests are switched off.
    Disabled,
    /// The address is not of the public internet and no rule allows it.
    NotPublic {
        /// The address that would have been dialled.
        address: IpAddr,
        /// What it is, in words that follow "is".
        reason: &'static str,
    },
}

impl Denial {
    /// The lines of the binding file that would allow it.
    pub(super) fn advice(&self, endpoint: &Endpoint) -> String {
        match self {
            Self::Disabled => "[outbound]\nenabled = true".to_owned(),
            Self::NotPublic { address, .. } => {
                format!("[outbound]\nallow_private = [\"{}\"]", rule_for(endpoint, *address))
            }
        }
    }
}

/// The narrowest rule that allows `address` for `endpoint`: the name where the guest used one that a rule can hold.
pub(super) fn rule_for(endpoint: &Endpoint, address: IpAddr) -> String {
    match endpoint.host.name() {
        Some(name) if !endpoint.host.looks_numeric() => format!("{name}:{}", endpoint.port),
        _ => SocketAddr::new(address, endpoint.port).to_string(),
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("outbound requests are switched off for this worker"),
            Self::NotPublic { address, reason } => write!(f, "{address} is {reason}"),
        }
    }
}

impl Rule {
    fn allows(&self, host: &Host, address: IpAddr, port: u16) -> bool {
        let in_scope = match &self.scope {
            Scope::Name(name) => host.name() == Some(name.as_str()),
            Scope::Block(block) => block.contains(address),
        };
        in_scope && self.port.is_none_or(|allowed| allowed == port)
    }

    fn parse(rule: &str) -> Result<Self, PolicyError> {
        let malformed = || PolicyError::Malformed { rule: rule.to_owned() };
        if rule.contains("://") {
            return Err(malformed());
        }
        let (scope, port) = match rule.strip_prefix('[') {
            Some(bracketed) => {
                let (scope, rest) = bracketed.split_once(']').ok_or_else(malformed)?;
                if !scope.contains(':') {
                    return Err(malformed());
                }
                match rest.strip_prefix(':') {
                    Some(port) => (scope, Some(port)),
                    None if rest.is_empty() => (scope, None),
                    None => return Err(malformed()),
                }
            }
            None => match rule.split_once(':') {
                // More than one colon: an IPv6 address without brackets, which has no port.
                Some((_, rest)) if rest.contains(':') => (rule, None),
                Some((scope, port)) => (scope, Some(port)),
                None => (rule, None),
            },
        };
        let scope = match scope.split_once('/') {
            Some((address, prefix)) => Scope::Block(parse_block(rule, address, prefix)?),
            None => match scope.parse::<IpAddr>() {
                Ok(address) => Scope::Block(Block::single(address).to_canonical()),
                Err(_) => Scope::Name(parse_name(rule, scope)?),
            },
        };
        let port = port.map(|port| parse_port(rule, port)).transpose()?;
        Ok(Self { scope, port })
    }
}

fn parse_block(rule: &str, address: &str, prefix: &str) -> Result<Block, PolicyError> {
    let address: IpAddr = address.parse().map_err(|_| PolicyError::Malformed { rule: rule.to_owned() })?;
    let no_prefix = || PolicyError::Prefix { rule: rule.to_owned(), prefix: prefix.to_owned() };
    let block = parse_digits(prefix).and_then(|bits| Block::new(address, bits)).ok_or_else(no_prefix)?;
    if block.first() != address {
        let block = format!("{}/{prefix}", block.first());
        return Err(PolicyError::InsideBlock { rule: rule.to_owned(), block, address });
    }
    Ok(block.to_canonical())
}

fn parse_name(rule: &str, name: &str) -> Result<String, PolicyError> {
    let malformed = || PolicyError::Malformed { rule: rule.to_owned() };
    let host = Host::parse(name).ok_or_else(malformed)?;
    if host.looks_numeric() {
        return Err(PolicyError::Numeric { rule: rule.to_owned() });
    }
    host.name().map(str::to_owned).ok_or_else(malformed)
}

fn parse_port(rule: &str, port: &str) -> Result<u16, PolicyError> {
    parse_digits::<u16>(port)
        .filter(|port| *port != 0)
        .ok_or_else(|| PolicyError::Port { rule: rule.to_owned(), port: port.to_owned() })
}

/// A number written in digits alone: the standard parser would also take a sign.
fn parse_digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
