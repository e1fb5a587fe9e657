//! The address filter: named cases from the registries, and what must hold for every address.

use crate::outbound::address::{Block, special_use};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Blocks that must be refused whole, written down apart from the tables under test.
const REFUSED_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];

const REFUSED_V6: &[&str] = &[
    "::/8",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "4000::/2",
    "5f00::/16",
    "8000::/1",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

fn block(text: &str) -> (IpAddr, u8) {
    let (address, prefix) = text.split_once('/').unwrap();
    (address.parse().unwrap(), prefix.parse().unwrap())
}

/// The address of `block` whose bits beyond the prefix are those of `rest`.
fn within(text: &str, rest: u128) -> IpAddr {
    match block(text) {
        (IpAddr::V4(base), prefix) => {
            let free = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(base.to_bits() | (rest as u32 & free)).into()
        }
        (IpAddr::V6(base), prefix) => {
            let free = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(base.to_bits() | (rest & free)).into()
        }
    }
}

/// IPv6 addresses that lead to `address`, or could.
fn embeddings(address: Ipv4Addr) -> Vec<Ipv6Addr> {
    let bits = u128::from(address.to_bits());
    let at = |prefix: Ipv6Addr, shift: u32| Ipv6Addr::from_bits(prefix.to_bits() | (bits << shift));
    vec![
        address.to_ipv6_mapped(),
        at(Ipv6Addr::UNSPECIFIED, 0),
        at("64:ff9b::".parse().unwrap(), 0),
        at("64:ff9b:1::".parse().unwrap(), 0),
        at("2002::".parse().unwrap(), 80),
        at("2001::".parse().unwrap(), 64),
        // Teredo carries its client's address with every bit flipped.
        Ipv6Addr::from_bits((0x2001 << 112) | u128::from(!address.to_bits())),
    ]
}

#[test]
fn special_addresses_are_known_by_name() {
    let cases = [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.127.255.255", "carrier-grade NAT"),
        ("169.254.169.254", "link-local"),
        ("168.63.129.16", "cloud platform"),
        ("0.0.0.0", "this host"),
        ("192.0.0.192", "protocol assignments"),
        ("198.19.255.255", "benchmarking"),
        ("192.0.2.1", "documentation"),
        ("224.0.0.251", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("250.0.0.1", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::127.0.0.1", "IPv4-compatible"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fd00:ec2::254", "unique local"),
        ("fe80::1", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
        ("2001:20::1", "protocol assignments"),
        ("2002:7f00:1::", "6to4"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b:1::808:808", "local NAT64"),
        ("100::1", "discard-only"),
        ("5f00::1", "global unicast"),
    ];
    for (address, word) in cases {
        let reason = special_use(address.parse().unwrap());
        assert!(reason.is_some_and(|reason| reason.contains(word)), "{address}: {reason:?} does not say {word:?}");
    }
}

#[test]
fn neighbours_of_special_blocks_are_public() {
    let public = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "2606:4700:4700::1111",
        "3ffe::1",
    ];
    for address in public {
        assert_eq!(special_use(address.parse().unwrap()), None, "{address}");
    }
}

#[test]
fn blocks_end_where_their_prefix_says() {
    let all = Block::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).unwrap();
    assert!(all.contains("255.255.255.255".parse().unwrap()));
    assert!(!all.contains("::1".parse().unwrap()));
    let one = Block::single("2001:db8::1".parse().unwrap());
    assert!(one.contains("2001:db8::1".parse().unwrap()));
    assert!(!one.contains("2001:db8::2".parse().unwrap()));
    assert_eq!(Block::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 33), None);
    let mapped = Block::new("::ffff:10.0.0.0".parse().unwrap(), 104).unwrap().to_canonical();
    assert_eq!(Some(mapped), Block::new("10.0.0.0".parse().unwrap(), 8));
}

proptest! {
    #[test]
    fn refused_blocks_are_refused_in_every_form(index in 0..REFUSED_V4.len(), rest: u128) {
        let IpAddr::V4(address) = within(REFUSED_V4[index], rest) else { unreachable!() };
        prop_assert!(special_use(address.into()).is_some(), "{address}");
        for embedding in embeddings(address) {
            prop_assert!(special_use(embedding.into()).is_some(), "{address} as {embedding}");
        }
    }

    #[test]
    fn refused_ipv6_blocks_are_refused(index in 0..REFUSED_V6.len(), rest: u128) {
        let address = within(REFUSED_V6[index], rest);
        // `::/8` contains the one transition block that is judged by what it carries, and the mapped addresses.
        prop_assume!(address.to_canonical().is_ipv6());
        prop_assume!(!Block::new("64:ff9b::".parse().unwrap(), 96).unwrap().contains(address));
        prop_assert!(special_use(address).is_some(), "{address}");
    }

    #[test]
    fn what_no_block_refuses_is_public(bits: u32) {
        let address = Ipv4Addr::from_bits(bits);
        let refused = REFUSED_V4.iter().any(|text| {
            let (base, prefix) = block(text);
            Block::new(base, prefix).unwrap().contains(address.into())
        });
        prop_assert_eq!(special_use(address.into()).is_some(), refused);
        prop_assert_eq!(special_use(address.to_ipv6_mapped().into()).is_some(), refused);
    }
}
