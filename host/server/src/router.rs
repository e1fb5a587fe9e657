//! Which worker a request is for.

use std::cmp::Reverse;
use std::collections::HashMap;

use host_bindings::Site;
use host_config::Route;

/// A worker and where it answers.
#[derive(Clone)]
pub struct Served {
    /// The worker with its files.
    pub site: Site,
    /// Its routes beside `NAME.localhost`.
    pub routes: Vec<Route>,
}

/// Maps hosts and paths to workers. Every worker answers at `NAME.localhost`; a sole worker answers everything.
pub struct Router {
    sites: Vec<Site>,
    by_name: HashMap<String, usize>,
    /// Most specific first.
    routes: Vec<(Route, usize)>,
}

impl Router {
    /// A router over `served`, whose names differ.
    pub fn new(served: Vec<Served>) -> Self {
        let mut router = Self { sites: Vec::new(), by_name: HashMap::new(), routes: Vec::new() };
        for (index, Served { site, routes }) in served.into_iter().enumerate() {
            router.by_name.insert(site.name().to_owned(), index);
            router.sites.push(site);
            router.routes.extend(routes.into_iter().map(|route| (route, index)));
        }
        router.routes.sort_by_key(|(route, _)| Reverse(route.specificity()));
        router
    }

    /// What answers for a host (with or without a port) and a path.
    pub fn find(&self, host: &str, path: &str) -> Option<&Site> {
        if let [sole] = self.sites.as_slice() {
            return Some(sole);
        }
        let host = without_port(host);
        let name = host.len().checked_sub(".localhost".len()).and_then(|at| {
            let (name, rest) = host.split_at_checked(at)?;
            rest.eq_ignore_ascii_case(".localhost").then(|| name.to_ascii_lowercase())
        });
        if let Some(index) = name.and_then(|name| self.by_name.get(&name)) {
            return self.sites.get(*index);
        }
        let (_, index) = self.routes.iter().find(|(route, _)| route.matches(host, path))?;
        self.sites.get(*index)
    }

    /// Every worker.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }
}

/// `example.com:80` and `[::1]:80` without the port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::without_port;

    #[test]
    fn ports_are_cut_off_and_addresses_kept_whole() {
        assert_eq!(without_port("a.localhost:8787"), "a.localhost");
        assert_eq!(without_port("a.localhost"), "a.localhost");
        assert_eq!(without_port("[::1]:8787"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("a:b"), "a:b");
    }
}
