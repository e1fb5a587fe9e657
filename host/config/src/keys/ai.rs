//! The keys of `[ai]`: bindings, models, adapters, gateways and the providers behind them.

use super::{DAY_MS, key, required};
use crate::schema::{Key, Section, Takes};

const AI_BINDING: Key = key("binding", Takes::Text, "the name under which the worker sees AI, as in \"AI\"");

/// `[ai]` of a `[[workers]]` entry or an environment.
pub static WORKER_AI: Section = Section {
    keys: &[&[
        AI_BINDING,
        key("models", Takes::Texts, "the only models the worker may run; default all (the host's own)"),
        key("loras", Takes::Texts, "the only adapters the worker may use; default all (the host's own)"),
    ]],
    ignored: AI_IGNORED,
};

/// `[ai]` at the top of a file.
pub static AI: Section = Section {
    keys: &[&[
        AI_BINDING,
        key(
            "models",
            Takes::TextsOrTables(&MODEL),
            "strings: the only models the worker may run; tables: models of your own (the host's own)",
        ),
        key(
            "loras",
            Takes::TextsOrTables(&LORA),
            "strings: the only adapters the worker may use; tables: adapters of your own (the host's own)",
        ),
        key(
            "aliases",
            Takes::TextByName,
            "names that stand for other models, as in \"@cf/meta/llama-3.1-8b-instruct\" = \"small\" (the host's own)",
        ),
        key(
            "device",
            Takes::Choice(&["auto", "cpu", "cuda", "metal"]),
            "where models run; default \"auto\" (the host's own)",
        ),
        key(
            "model_directory",
            Takes::Text,
            "where model files are kept, relative to the binding file (the host's own)",
        ),
        key("threads", Takes::Whole(1, 4096), "CPU threads for models; default one a core (the host's own)"),
        key(
            "memory_mb",
            Takes::Whole(1, 1 << 30),
            "memory for models and their work in MiB; default no bound (the host's own)",
        ),
        key(
            "queue",
            Takes::Whole(1, 1_000_000),
            "requests of a worker that may wait for a model before more are refused (the host's own)",
        ),
        key(
            "pull",
            Takes::Flag,
            "`true` fetches models of the catalogue that the aliases name and that are not here, when the host starts; \
             default `false` (the host's own)",
        ),
        key(
            "batch_ttl",
            Takes::Whole(1, 365 * 24 * 3600),
            "seconds to keep the results of batches for; default 86400 (the host's own)",
        ),
        key("gateways", Takes::Tables(&GATEWAY), "gateways: cache, limits and log of calls (the host's own)"),
        key("providers", Takes::Tables(&PROVIDER), "providers elsewhere that gateways ask (the host's own)"),
    ]],
    ignored: AI_IGNORED,
};

/// `[[ai.gateways]]` (the host's own).
pub static GATEWAY: Section = Section {
    keys: &[&[
        required("id", Takes::Text, "the id that workers name: letters, digits, `-` and `_`"),
        key(
            "cache_ttl",
            Takes::Whole(0, 31 * 24 * 3600),
            "seconds to keep answers for, where a call does not say; default 0",
        ),
        key("cache_mb", Takes::Whole(1, 65_536), "what kept answers may take in MiB; default 64"),
        key("cache_shared", Takes::Flag, "`true` gives workers each other's answers; default `false`"),
        key("similar_model", Takes::Text, "a model of vectors by which questions that mean the same share an answer"),
        key(
            "similar_percent",
            Takes::Whole(50, 100),
            "the least cosine, in percent, of questions that mean the same; default 95",
        ),
        key("rate_limit", Takes::Table(&RATE_LIMIT), "how many calls it takes"),
        key("collect_log", Takes::Flag, "`false` logs only calls that ask for it; default `true`"),
        key("log_bodies", Takes::Flag, "`false` keeps bodies out of the log; default `true`, their first 8 KiB"),
        key("redact", Takes::Texts, "properties whose values stay out of the log, wherever in a body they stand"),
        key(
            "prices",
            Takes::Json,
            "what models cost by their names: `{ input = …, output = … }`, each for a million tokens",
        ),
    ]],
    ignored: &[],
};

/// `[ai.gateways.rate_limit]`.
pub static RATE_LIMIT: Section = Section {
    keys: &[&[
        required("requests", Takes::Whole(1, 1_000_000_000), "calls in a window"),
        required("window_s", Takes::Whole(1, 31 * 24 * 3600), "the window's length in seconds"),
        key(
            "technique",
            Takes::Choice(&["fixed", "sliding"]),
            "whether windows follow each other or each ends now; default \"sliding\"",
        ),
    ]],
    ignored: &[],
};

/// `[[ai.providers]]` (the host's own).
pub static PROVIDER: Section = Section {
    keys: &[&[
        required("name", Takes::Text, "the name under which calls of gateways ask for it"),
        key("kind", Takes::Choice(&["openai", "anthropic"]), "what its servers speak; default \"openai\""),
        URL,
        URLS,
        KEY,
        TIMEOUT,
        ATTEMPTS,
        HEALTH,
    ]],
    ignored: &[],
};

const AI_IGNORED: &[&str] = &["remote", "staging", "experimental_remote"];

const URL: Key = key("url", Takes::Text, "the address of the server, as in \"http://127.0.0.1:8000/v1\"");
const URLS: Key = key("urls", Takes::Texts, "the addresses of several servers that answer alike");
const KEY: Key = key(
    "key",
    Takes::Text,
    "the name of the secret that the servers are shown: a line of the secrets file, which no worker then gets, or a \
     variable of the host's environment",
);
const TIMEOUT: Key = key(
    "timeout_ms",
    Takes::Whole(1, DAY_MS),
    "milliseconds to wait for an answer and for each piece of it; default 120000",
);
const ATTEMPTS: Key = key("max_attempts", Takes::Whole(1, 10), "how often a call is tried; default 3");
const CONCURRENCY: Key =
    key("concurrency", Takes::Whole(1, 1_000_000), "calls under way at the same time; default 256, and more wait");
const HEALTH: Key = key("health", Takes::Text, "the path of a health check below the address; default \"/models\"");

/// `[[ai.models]]` (the host's own).
pub static MODEL: Section = Section {
    keys: &[&[
        required("name", Takes::Text, "the name under which workers run the model"),
        key("task", Takes::Choice(&crate::ai::TASKS), "what the model does; default by its files"),
        key("path", Takes::Text, "a GGUF file or a directory of safetensors, relative to the binding file"),
        key(
            "backend",
            Takes::Choice(&["candle", "mock", "openai"]),
            "\"candle\" runs the files at `path`; \"openai\" asks the servers at `url`, which speak OpenAI's interface; \"mock\" \
             answers from `mock`, for tests; default \"candle\"",
        ),
        URL,
        URLS,
        key("model", Takes::Text, "what the servers call the model; default `name`"),
        KEY,
        TIMEOUT,
        ATTEMPTS,
        CONCURRENCY,
        HEALTH,
        key(
            "dimensions",
            Takes::Whole(1, 65_536),
            "the length of the servers' vectors; default that of the first answer",
        ),
        key("max_batch", Takes::Whole(1, 2048), "texts in one request for vectors; default 32"),
        key(
            "schemas",
            Takes::Choice(&["json_schema", "json_object"]),
            "how the servers want schemas of answers: \"json_schema\" as OpenAI has it, \"json_object\" as llama-cpp-python; \
             default \"json_schema\"",
        ),
        key("mock", Takes::Json, "what the mock backend answers"),
        key("context", Takes::Whole(1, 1 << 24), "the context window in tokens; default the model's own"),
        key(
            "pooling",
            Takes::Choice(&crate::ai::POOLINGS),
            "how token vectors become one embedding: their mean, the first token's or the last one's; default the model's \
             own",
        ),
        key(
            "precision",
            Takes::Choice(&crate::ai::PRECISIONS),
            "how a model of speech multiplies: \"float\" with its weights as they are, \"int8\" with eight-bit integers, \
             faster and in less memory; default \"float\"",
        ),
        key(
            "speculate",
            Takes::Flag,
            "`true` lets a text model read what its answer may copy from before, where that saves time; the answers stay \
             the same; default `false`",
        ),
    ]],
    ignored: &[],
};

/// `[[ai.loras]]` (the host's own).
pub static LORA: Section = Section {
    keys: &[&[
        required("name", Takes::Text, "the name that requests give in `lora`"),
        required(
            "path",
            Takes::Text,
            "a folder with `adapter_config.json` and `adapter_model.safetensors`, relative to the binding file",
        ),
        required("models", Takes::Texts, "the list of models that the adapter was made for, by their names or aliases"),
    ]],
    ignored: &[],
};
