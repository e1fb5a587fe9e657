//! Which addresses the public internet ends at.
//!
//! The filter decides by address alone, never by name: names are the guest's to choose and the resolver's to answer.
//! For IPv4 everything is public that no special-purpose registration claims. For IPv6 it is the other way round:
//! only `2000::/3` is assigned for global unicast, so everything outside it is refused without having to be known,
//! and the special blocks inside it are listed. Addresses that carry an IPv4 address (mapped, NAT64) are judged by
//! what they carry, because that is where the packets end up; the tunnelling forms nobody should need any more
//! (6to4, Teredo, IPv4-compatible) are refused whole, as a relay could lead them anywhere.
//!
//! Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates), RFC 4291 for the
//! IPv6 architecture, RFC 6052 and RFC 8215 for NAT64.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses: all that share the first `prefix` bits of `base`.
///
/// IPv4 and IPv6 never match one another; compare canonical addresses (see [`IpAddr::to_canonical`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    base: IpAddr,
    prefix: u8,
}

impl Block {
    /// The block of the one `address`.
    pub(super) fn single(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { base: address, prefix }
    }

    /// The block `base/prefix`, or `None` where the prefix is longer than an address.
    pub(super) fn new(base: IpAddr, prefix: u8) -> Option<Self> {
        let longest = if base.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then_some(Self { base, prefix })
    }

    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(base: Ipv6Addr, prefix: u8) -> Self {
        Self { base: IpAddr::V6(base), prefix }
    }

    /// Whether `address` lies in this block.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = mask_v4(self.prefix);
                base.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = mask_v6(self.prefix);
                base.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }

    /// The lowest address of the block: `base` with every bit beyond the prefix cleared.
    pub(super) fn first(&self) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() & mask_v4(self.prefix)).into(),
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() & mask_v6(self.prefix)).into(),
        }
    }

    /// The same block in its canonical family: `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
    pub(super) fn to_canonical(self) -> Self {
        match self.base {
            IpAddr::V6(base) if self.prefix >= 96 => match base.to_ipv4_mapped() {
                Some(v4) => Self { base: v4.into(), prefix: self.prefix - 96 },
                None => self,
            },
            _ => self,
        }
    }
}

fn mask_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// IPv4 blocks that are not the public internet, each with what it is in words that follow "is".
const SPECIAL_V4: &[(Block, &str)] = &[
    (Block::v4(0, 0, 0, 0, 8), "an address of this host on this network (0.0.0.0/8)"),
    (Block::v4(10, 0, 0, 0, 8), "a private address (10.0.0.0/8)"),
    (Block::v4(100, 64, 0, 0, 10), "a shared carrier-grade NAT address (100.64.0.0/10)"),
    (Block::v4(127, 0, 0, 0, 8), "a loopback address (127.0.0.0/8)"),
    // A public-looking address that exists only inside one cloud, where it hands out the machine's secrets.
    (Block::v4(168, 63, 129, 16, 32), "a cloud platform's service address (168.63.129.16)"),
    (Block::v4(169, 254, 0, 0, 16), "a link-local address, where cloud metadata lives (169.254.0.0/16)"),
    (Block::v4(172, 16, 0, 0, 12), "a private address (172.16.0.0/12)"),
    (Block::v4(192, 0, 0, 0, 24), "reserved for protocol assignments (192.0.0.0/24)"),
    (Block::v4(192, 0, 2, 0, 24), "a documentation address (192.0.2.0/24)"),
    (Block::v4(192, 88, 99, 0, 24), "a deprecated 6to4 relay address (192.88.99.0/24)"),
    (Block::v4(192, 168, 0, 0, 16), "a private address (192.168.0.0/16)"),
    (Block::v4(198, 18, 0, 0, 15), "a benchmarking address (198.18.0.0/15)"),
    (Block::v4(198, 51, 100, 0, 24), "a documentation address (198.51.100.0/24)"),
    (Block::v4(203, 0, 113, 0, 24), "a documentation address (203.0.113.0/24)"),
    (Block::v4(224, 0, 0, 0, 4), "a multicast address (224.0.0.0/4)"),
    (Block::v4(255, 255, 255, 255, 32), "the broadcast address"),
    (Block::v4(240, 0, 0, 0, 4), "a reserved address (240.0.0.0/4)"),
];

/// IPv6 blocks that are not the public internet. The first match names the reason, so narrow blocks come first.
const SPECIAL_V6: &[(Block, &str)] = &[
    (Block::v6(Ipv6Addr::UNSPECIFIED, 128), "the unspecified address (::)"),
    (Block::v6(Ipv6Addr::LOCALHOST, 128), "the loopback address (::1)"),
    (Block::v6(Ipv6Addr::UNSPECIFIED, 96), "an IPv4-compatible address (::/96)"),
    (Block::v6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48), "a local NAT64 address (64:ff9b:1::/48)"),
    (Block::v6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64), "a discard-only address (100::/64)"),
    (Block::v6(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32), "a Teredo address (2001::/32)"),
    (Block::v6(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), "reserved for protocol assignments (2001::/23)"),
    (Block::v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), "a documentation address (2001:db8::/32)"),
    (Block::v6(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), "a 6to4 address (2002::/16)"),
    (Block::v6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), "a documentation address (3fff::/20)"),
    (Block::v6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7), "a unique local address (fc00::/7)"),
    (Block::v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "a link-local address (fe80::/10)"),
    (Block::v6(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10), "a site-local address (fec0::/10)"),
    (Block::v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "a multicast address (ff00::/8)"),
];

const GLOBAL_UNICAST: Block = Block::v6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const NAT64: Block = Block::v6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// What makes `address` something other than the public internet, in words that follow "is"; `None` where it is public.
pub(super) fn special_use(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_use_v4(address),
        IpAddr::V6(address) => special_use_v6(address),
    }
}

fn special_use_v4(address: Ipv4Addr) -> Option<&'static str> {
    named(SPECIAL_V4, address.into())
}

fn special_use_v6(address: Ipv6Addr) -> Option<&'static str> {
    if NAT64.contains(address.into()) {
        let [.., a, b, c, d] = address.octets();
        return special_use_v4(Ipv4Addr::new(a, b, c, d));
    }
    if let Some(reason) = named(SPECIAL_V6, address.into()) {
        return Some(reason);
    }
    (!GLOBAL_UNICAST.contains(address.into())).then_some("outside the global unicast block (2000::/3)")
}

fn named(table: &[(Block, &'static str)], address: IpAddr) -> Option<&'static str> {
    table.iter().find(|(block, _)| block.contains(address)).map(|(_, reason)| *reason)
}
