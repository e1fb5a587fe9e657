//! Every key of a binding file.
//!
//! The names are those of wrangler's configuration where it has them (its published JSON schema, version 4.164), so
//! that a file written for Cloudflare is read here unchanged. The host's own keys are marked so in their text.

use crate::schema::{Key, Section, Takes};

mod ai;

pub use ai::{AI, GATEWAY, LORA, MODEL, PROVIDER, RATE_LIMIT, WORKER_AI};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

const fn key(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, takes, required: false, doc }
}

const fn required(name: &'static str, takes: Takes, doc: &'static str) -> Key {
    Key { name, takes, required: true, doc }
}

/// The keys at the top of a file: those of a worker, and those that hold for the whole host.
pub static ROOT: Section = Section { keys: &[WORKER, ROOT_ONLY], ignored: CLOUDFLARE };

/// A `[[workers]]` entry (the host's own: several workers in one file).
pub static ENTRY: Section = Section { keys: &[WORKER, ENTRY_ONLY], ignored: CLOUDFLARE };

/// An `[env.NAME]` table.
pub static ENVIRONMENT: Section = Section { keys: &[WORKER, AI_OF_WORKER], ignored: CLOUDFLARE };

const WORKER: &[Key] = &[
    key("name", Takes::Text, "the worker's name, a DNS label: lower-case letters, digits and hyphens"),
    key("main", Takes::Text, "the component (`.wasm`), script or Cargo.toml to run, relative to the binding file"),
    key("compatibility_date", Takes::Text, "the day, as in \"2025-10-08\", whose behaviour the worker was written for"),
    key("compatibility_flags", Takes::Texts, "single changes of behaviour to switch on or off"),
    key(
        "instances",
        Takes::Choice(&["fresh", "reuse"]),
        "\"reuse\" lets an instance answer one request after the other and keep its globals, \"fresh\" gives each request \
         its own; default \"fresh\" for WASI 0.2, \"reuse\" for WASI 0.3 (the host's own)",
    ),
    key("route", Takes::TextOrTable(&ROUTE), "one route; see `routes`"),
    key("routes", Takes::TextsOrTables(&ROUTE), "the hosts and paths that the worker answers, as in \"example.com/*\""),
    key("vars", Takes::Json, "variables: strings reach the worker as text, anything else as JSON"),
    key("limits", Takes::Table(&LIMITS), "what one worker may use"),
    key("outbound", Takes::Table(&OUTBOUND), "what the worker may connect to (the host's own)"),
    key("kv_namespaces", Takes::Tables(&KV), "key-value stores"),
    key("vectorize", Takes::Tables(&VECTORIZE), "vector indexes"),
    key("queues", Takes::Table(&QUEUES), "queues to send to and to receive from"),
    key("d1_databases", Takes::Tables(&D1), "SQL databases"),
    key("r2_buckets", Takes::Tables(&R2), "object stores"),
    key("services", Takes::Tables(&SERVICES), "other workers to call"),
    key("triggers", Takes::Table(&TRIGGERS), "what starts the worker besides a request"),
    key("assets", Takes::Table(&ASSETS), "static files"),
];

const ROOT_ONLY: &[Key] = &[
    key("ai", Takes::Table(&AI), "the worker's AI binding, and the models of the host"),
    key("dev", Takes::Table(&DEV), "where the host listens"),
    key(
        "env",
        Takes::Named(&ENVIRONMENT),
        "environments, chosen with `--env NAME`, whose keys replace those of the worker",
    ),
    key("workers", Takes::Tables(&ENTRY), "more workers, each with the keys of a worker (the host's own)"),
];

const ENTRY_ONLY: &[Key] = &[
    key("ai", Takes::Table(&WORKER_AI), "the worker's AI binding"),
    key("env", Takes::Named(&ENVIRONMENT), "environments of this worker"),
];

const AI_OF_WORKER: &[Key] = &[key("ai", Takes::Table(&WORKER_AI), "the worker's AI binding")];

/// A route as a table.
pub static ROUTE: Section = Section {
    keys: &[&[
        required("pattern", Takes::Text, "the host and path, as in \"example.com/*\""),
        key("zone_name", Takes::Text, "the zone on Cloudflare; unused here"),
        key("zone_id", Takes::Text, "the zone on Cloudflare; unused here"),
        key("custom_domain", Takes::Flag, "the pattern is a host alone, and the worker answers all of its paths"),
        key("enabled", Takes::Flag, "`false` leaves the route out; default `true`"),
        key("previews_enabled", Takes::Flag, "previews on Cloudflare; unused here"),
    ]],
    ignored: &[],
};

/// `[limits]`.
pub static LIMITS: Section = Section {
    keys: &[&[
        key("cpu_ms", Takes::Whole(1, DAY_MS), "CPU time of a request in milliseconds; default 30000"),
        key("wall_ms", Takes::Whole(1, DAY_MS), "time of a request in milliseconds; default 300000 (the host's own)"),
        key(
            "memory_mb",
            Takes::Whole(1, 65_536),
            "memory of an instance in MiB, summed over its memories; default 128 (the host's own)",
        ),
        key("concurrency", Takes::Whole(1, 1_000_000), "requests at the same time; default 256 (the host's own)"),
        key("request_mb", Takes::Whole(1, 1_048_576), "body of a request in MiB; default 100 (the host's own)"),
        key("response_mb", Takes::Whole(1, 1_048_576), "body of a response in MiB; default 1024 (the host's own)"),
        key("subrequests", Takes::Whole(0, 10_000_000), "requests that a request may make; default 1000"),
        key("log_kb", Takes::Whole(0, 1_048_576), "log output of a request in KiB; default 256 (the host's own)"),
    ]],
    ignored: &[],
};

/// `[outbound]` (the host's own).
pub static OUTBOUND: Section = Section {
    keys: &[&[
        key("enabled", Takes::Flag, "`false` denies every outbound connection; default `true`"),
        key(
            "allow_private",
            Takes::Texts,
            "private addresses the worker may reach, as in \"127.0.0.1:9000\", \"10.0.0.0/8\", \"db.internal:5432\"; default none",
        ),
    ]],
    ignored: &[],
};

/// `[dev]`.
pub static DEV: Section = Section {
    keys: &[&[
        key("ip", Takes::Text, "the address or host name to listen on; default \"localhost\""),
        key("port", Takes::Whole(0, 65_535), "the port to listen on, 0 for any free one; default 8787"),
    ]],
    ignored: &[
        "container_engine",
        "enable_containers",
        "generate_types",
        "host",
        "inspector_ip",
        "inspector_port",
        "local_protocol",
        "upstream_protocol",
    ],
};

const REMOTE: Key = key("remote", Takes::Flag, "use Cloudflare's from a local run; unused here");
const BINDING: Key = required("binding", Takes::Text, "the name under which the worker sees it");

/// `[[kv_namespaces]]`.
pub static KV: Section = Section {
    keys: &[&[
        BINDING,
        key("id", Takes::Text, "the namespace's id"),
        key("preview_id", Takes::Text, "the id used by previews"),
        REMOTE,
    ]],
    ignored: &[],
};

/// `[[vectorize]]`.
pub static VECTORIZE: Section = Section {
    keys: &[&[
        BINDING,
        required("index_name", Takes::Text, "the index"),
        key(
            "dimensions",
            Takes::Whole(1, 1536),
            "creates the index with vectors of so many numbers if it is not there (the host's own)",
        ),
        key(
            "metric",
            Takes::Choice(&["cosine", "euclidean", "dot-product"]),
            "how the index that `dimensions` creates compares vectors; default \"cosine\" (the host's own)",
        ),
        REMOTE,
    ]],
    ignored: &[],
};

/// `[queues]`.
pub static QUEUES: Section = Section {
    keys: &[&[
        key("producers", Takes::Tables(&PRODUCER), "queues the worker sends to"),
        key("consumers", Takes::Tables(&CONSUMER), "queues the worker receives from"),
    ]],
    ignored: &[],
};

/// `[[queues.producers]]`.
pub static PRODUCER: Section = Section {
    keys: &[&[
        BINDING,
        required("queue", Takes::Text, "the queue's name"),
        key("delivery_delay", Takes::Whole(0, 43_200), "seconds before a message is delivered; default 0"),
        REMOTE,
    ]],
    ignored: &[],
};

/// `[[queues.consumers]]`.
pub static CONSUMER: Section = Section {
    keys: &[&[
        required("queue", Takes::Text, "the queue's name"),
        key("type", Takes::Choice(&["worker"]), "who receives; a worker"),
        key("max_batch_size", Takes::Whole(1, 100), "messages a batch; default 10"),
        key("max_batch_timeout", Takes::Whole(0, 60), "seconds to wait for a batch to fill; default 5"),
        key("max_retries", Takes::Whole(0, 100), "times a message is tried again; default 3"),
        key("dead_letter_queue", Takes::Text, "the queue for messages whose retries are used up"),
        key(
            "max_concurrency",
            Takes::WholeOrNull(1, 250),
            "batches at the same time; default as many as go well, up to 10",
        ),
        key(
            "visibility_timeout_ms",
            Takes::Whole(0, 43_200_000),
            "milliseconds a pulled message is hidden; unused here",
        ),
        key("retry_delay", Takes::Whole(0, 43_200), "seconds before a message is tried again; default 0"),
    ]],
    ignored: &[],
};

/// `[[d1_databases]]`.
pub static D1: Section = Section {
    keys: &[&[
        BINDING,
        key("database_name", Takes::Text, "the database's name"),
        key("database_id", Takes::Text, "the database's id"),
        key("preview_database_id", Takes::Text, "the id used by previews"),
        key("migrations_table", Takes::Text, "the table that records migrations; default \"d1_migrations\""),
        key("migrations_dir", Takes::Text, "the directory of migrations; default \"migrations\""),
        key("migrations_pattern", Takes::Text, "which files are migrations"),
        key("database_internal_env", Takes::Text, "Cloudflare's own; unused here"),
        key("jurisdiction", Takes::Text, "where Cloudflare keeps the data; unused here"),
        REMOTE,
    ]],
    ignored: &[],
};

/// `[[r2_buckets]]`.
pub static R2: Section = Section {
    keys: &[&[
        BINDING,
        key("bucket_name", Takes::Text, "the bucket"),
        key("preview_bucket_name", Takes::Text, "the bucket used by previews"),
        key("jurisdiction", Takes::Text, "where Cloudflare keeps the data; unused here"),
        REMOTE,
    ]],
    ignored: &["local_dev"],
};

/// `[[services]]`.
pub static SERVICES: Section = Section {
    keys: &[&[
        BINDING,
        required("service", Takes::Text, "the name of the worker to call"),
        key("entrypoint", Takes::Text, "the entrypoint to call; not acted on"),
        key("environment", Takes::Text, "the environment of the worker to call; not acted on"),
        key("props", Takes::Json, "values passed to the entrypoint; not acted on"),
        REMOTE,
    ]],
    ignored: &[],
};

/// `[triggers]`.
pub static TRIGGERS: Section = Section {
    keys: &[&[key("crons", Takes::Texts, "schedules in cron's five fields, in UTC, as in \"*/5 * * * *\"")]],
    ignored: &["events"],
};

/// `[assets]`.
pub static ASSETS: Section = Section {
    keys: &[&[
        required("directory", Takes::Text, "the directory of the files, relative to the binding file"),
        key("binding", Takes::Text, "the name under which the worker sees the files"),
        key("base_path", Takes::Text, "the path under which the files are served; default \"/\""),
        key(
            "html_handling",
            Takes::Choice(&["auto-trailing-slash", "force-trailing-slash", "drop-trailing-slash", "none"]),
            "how paths find HTML files; default \"auto-trailing-slash\"",
        ),
        key(
            "not_found_handling",
            Takes::Choice(&["single-page-application", "404-page", "none"]),
            "what answers a path without a file; default \"none\"",
        ),
        key(
            "run_worker_first",
            Takes::FlagOrTexts,
            "whether, or for which paths, as in \"/api/*\", the worker answers before the files; default `false`",
        ),
    ]],
    ignored: &[],
};

/// Keys of Cloudflare's tool, at the top or in an environment, that concern its account, its bundler, or services that
/// this host does not have.
const CLOUDFLARE: &[&str] = &[
    "$schema",
    "access",
    "account_id",
    "addresses",
    "agent_memory",
    "ai_search",
    "ai_search_namespaces",
    "alias",
    "analytics",
    "analytics_engine_datasets",
    "artifacts",
    "base_dir",
    "browser",
    "build",
    "cache",
    "cloudchamber",
    "compliance_region",
    "connect",
    "containers",
    "data_blobs",
    "define",
    "dependencies_instrumentation",
    "dispatch_namespaces",
    "durable_objects",
    "exports",
    "find_additional_modules",
    "first_party_worker",
    "flagship",
    "hyperdrive",
    "images",
    "jsx_factory",
    "jsx_fragment",
    "k2",
    "keep_names",
    "keep_vars",
    "legacy_env",
    "logfwdr",
    "logpush",
    "media",
    "migrations",
    "minify",
    "miniflare",
    "mtls_certificates",
    "no_bundle",
    "node_compat",
    "observability",
    "pages_build_output_dir",
    "pipelines",
    "placement",
    "preserve_file_names",
    "preview_urls",
    "previews",
    "python_modules",
    "ratelimits",
    "rules",
    "secrets",
    "secrets_store_secrets",
    "send_email",
    "send_metrics",
    "site",
    "stream",
    "streaming_tail_consumers",
    "tail_consumers",
    "text_blobs",
    "tsconfig",
    "type",
    "unsafe",
    "unsafe_hello_world",
    "upload_source_maps",
    "usage_model",
    "version_metadata",
    "vpc_networks",
    "vpc_services",
    "wasm_modules",
    "webpack_config",
    "worker_loaders",
    "workers_dev",
    "workflows",
    "zone_id",
];

/// Where a key that stands in the wrong table belongs, in words. A TOML key after a `[table]` line belongs to that
/// table, which is the commonest way to misplace one.
pub(crate) fn home(name: &str, here: &'static Section) -> Option<&'static str> {
    let homes: [(&'static Section, &'static str); 8] = [
        (&ENVIRONMENT, "the worker itself: it stands before the first `[…]` line of the file, or of its entry"),
        (&AI, "`[ai]` at the top level, where it holds for every worker"),
        (&ROOT, "the top level of the file"),
        (&LIMITS, "`[limits]`"),
        (&OUTBOUND, "`[outbound]`"),
        (&DEV, "`[dev]` at the top level"),
        (&TRIGGERS, "`[triggers]`"),
        (&QUEUES, "`[queues]`"),
    ];
    // These names mean something in several tables, so that pointing at one of them would be a guess.
    if matches!(name, "binding" | "name" | "models" | "loras" | "memory_mb") {
        return None;
    }
    let holds = |section: &'static Section| !std::ptr::eq(section, here) && section.key(name).is_some();
    homes.into_iter().find(|(section, _)| holds(section)).map(|(_, words)| words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_both_known_and_ignored() {
        for section in [&ROOT, &ENTRY, &ENVIRONMENT, &AI, &WORKER_AI, &DEV, &R2, &TRIGGERS] {
            for name in section.ignored {
                assert!(section.key(name).is_none(), "{name}");
            }
        }
    }

    #[test]
    fn no_key_is_listed_twice() {
        for section in [&ROOT, &ENTRY, &ENVIRONMENT, &AI, &WORKER_AI, &MODEL, &LORA, &CONSUMER, &D1, &ASSETS] {
            let mut names: Vec<&str> = section.all().map(|key| key.name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
