//! `host gateway`: the gateways of a project, and their log.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use host_bindings::Resources;
use host_config::Project;
use host_gateway::{
    Filter, GatewaySettings, Gateways, Log, Price, ProviderKind, ProviderSettings, RateLimit, Similar, Technique,
};
use host_inference::Engine;
use host_upstream::Key;

use crate::exit::{Done, Failed};
use crate::prepare;

mod args;

pub(crate) use args::GatewayCommand;
use args::LogArgs;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Entries that one look may find.
const LOOKED: usize = 1000;

/// The gateways of a project, with the providers that they ask.
pub(crate) fn gateways(project: &Project, engine: &Engine, resources: &Resources) -> Result<Gateways, String> {
    let providers = project.ai.providers.iter().map(provider).collect::<Result<Vec<_>, String>>()?;
    let gateways = project.ai.gateways.iter().map(settings).collect();
    Gateways::new(gateways, providers, engine.clone(), resources.state().clone())
}

fn provider(entry: &host_config::ProviderEntry) -> Result<ProviderSettings, String> {
    let servers = &entry.servers;
    let kind = match entry.kind {
        host_config::ProviderKind::OpenAi => ProviderKind::OpenAi,
        host_config::ProviderKind::Anthropic => ProviderKind::Anthropic,
    };
    let key = servers.key.as_ref().map(|key| match kind {
        ProviderKind::OpenAi => Key::bearer(key.expose()),
        ProviderKind::Anthropic => Key::header("x-api-key", key.expose()),
    });
    let unfit = || format!("the key of the provider {} holds characters that no header can carry", entry.name);
    let addresses = servers.urls.iter().map(|url| url.parse().map_err(|error| format!("{url:?}: {error}")));
    Ok(ProviderSettings {
        name: entry.name.clone(),
        kind,
        addresses: addresses.collect::<Result<_, String>>()?,
        key: key.map(|key| key.ok_or_else(unfit)).transpose()?,
        timeout: servers.timeout,
        attempts: servers.attempts,
        health: servers.health.clone().unwrap_or_else(|| "/models".to_owned()),
    })
}

fn settings(entry: &host_config::GatewayEntry) -> GatewaySettings {
    let price =
        |(model, (input, output)): (&String, &(f64, f64))| (model.clone(), Price { input: *input, output: *output });
    GatewaySettings {
        id: entry.id.clone(),
        cache_ttl: entry.cache_ttl,
        cache_bytes: entry.cache_bytes,
        cache_shared: entry.cache_shared,
        similar: entry
            .similar
            .as_ref()
            .map(|similar| Similar { model: similar.model.clone(), threshold: similar.threshold }),
        rate_limit: entry.rate_limit.as_ref().map(|limit| RateLimit {
            requests: limit.requests,
            window: limit.window,
            technique: if limit.sliding { Technique::Sliding } else { Technique::Fixed },
        }),
        collect_log: entry.collect_log,
        log_bodies: entry.log_bodies,
        redact: entry.redact.clone(),
        prices: entry.prices.iter().map(price).collect(),
    }
}

/// Runs one of the `host gateway` commands.
pub(crate) fn run(command: GatewayCommand) -> Done {
    match command {
        GatewayCommand::List { project } => list(&prepare::load(&project)?, &project),
        GatewayCommand::Logs(args) => logs(&args),
    }
}

fn list(project: &Project, args: &crate::args::ProjectArgs) -> Done {
    let resources = prepare::resources(args, project);
    let mut calls: BTreeMap<String, usize> = project.ai.gateways.iter().map(|entry| (entry.id.clone(), 0)).collect();
    let all = Gateways::logs(resources.state(), &Filter { most: usize::MAX, ..Filter::default() });
    for log in all.map_err(|error| anyhow!(error))? {
        *calls.entry(log.gateway).or_default() += 1;
    }
    let width = calls.keys().map(String::len).max().unwrap_or(0);
    for (id, count) in &calls {
        let described = project.ai.gateways.iter().any(|entry| entry.id == *id);
        let note = if described { "" } else { "  (not in the binding file: no cache, no limit)" };
        println!("{id:width$}  {count:>7} calls logged{note}");
    }
    for provider in &project.ai.providers {
        println!("provider {} at {}", provider.name, provider.servers.urls.join(", "));
    }
    Ok(())
}

fn logs(args: &LogArgs) -> Done {
    let project = prepare::load(&args.project)?;
    let resources = prepare::resources(&args.project, &project);
    let since = args.since.as_deref().map(since).transpose().map_err(|error| Failed::usage(anyhow!(error)))?;
    let mut filter = Filter {
        gateway: args.gateway.clone(),
        model: args.model.clone(),
        status: args.status,
        since,
        after: None,
        // Who follows is told of each call once, when it is over.
        ended: args.follow,
        most: args.last,
    };
    loop {
        let mut found = Gateways::logs(resources.state(), &filter).map_err(|error| anyhow!(error))?;
        found.reverse();
        for log in &found {
            let line = if args.json { serde_json::to_string(log)? } else { line(log) };
            // Whoever has read enough closes the pipe.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return Ok(());
            }
        }
        if !args.follow {
            return Ok(());
        }
        if let Some(last) = found.last() {
            filter.after = Some(last.id.clone());
        }
        filter.most = LOOKED;
        std::thread::sleep(LOOK);
    }
}

fn line(log: &Log) -> String {
    let tokens = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    let cost = log.cost.map_or(String::new(), |cost| format!("  {cost:.6}"));
    let how = match (log.cached, log.ended) {
        (_, false) => "  not over",
        (true, true) => "  cached",
        (false, true) => "",
    };
    format!(
        "{}  {}  {}  {}  {} {}  {} ms  {} -> {} tokens{cost}{how}",
        time(log.created_at),
        log.id,
        log.gateway,
        log.status_code,
        log.provider,
        log.model,
        log.duration,
        tokens(log.tokens_in),
        tokens(log.tokens_out),
    )
}

/// A moment in UTC, to the second (proleptic Gregorian calendar, after Hinnant's `civil_from_days`).
fn time(milliseconds: i64) -> String {
    let seconds = milliseconds.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A moment so long ago, as in `15m`, in milliseconds since 1970.
fn since(text: &str) -> Result<i64, String> {
    let fault = || format!("{text:?} is no time: write 30s, 15m, 2h or 7d");
    let unit = text.chars().last().ok_or_else(fault)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(fault()),
    };
    let count: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| fault())?;
    let ago = Duration::from_secs(count.checked_mul(seconds).ok_or_else(fault)?);
    let then = SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH);
    let then = then.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(then.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(951_827_696_000), "2000-02-29T12:34:56Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn spans_of_time_are_read() {
        assert!(since("15m").is_ok() && since("0s").is_ok());
        for text in ["", "5", "m", "5y", "-5m", "99999999999999999999d", "5é"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
