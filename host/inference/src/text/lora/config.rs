//! `adapter_config.json`: how an adapter's factors are to be applied.
//!
//! PEFT writes every option of its own into this file, most of them about training. Those are known here and skipped;
//! an option that would change what the factors mean is refused unless it is off, and so is one that is not known.

use serde_json::{Map, Value};

/// The largest rank that is accepted.
pub const MAX_RANK: usize = 64;

/// Options that say how the adapter was trained, or for whom.
const TRAINING: [&str; 20] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Ways to begin the training that subtract from the base's weights what the adapter begins with: such an adapter fits no
/// published model. (`eva`, `gaussian` and `orthogonal` leave the base as it is.)
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// What the factors mean.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    rank: usize,
    alpha: f32,
    /// Whether updates are scaled by `alpha / √rank` (Kalajdzievski 2023) and not by `alpha / rank`.
    root: bool,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f32)>,
}

/// Some modules: all whose dotted name is this or ends in it.
#[derive(Debug, Clone, PartialEq)]
struct Pattern {
    name: String,
    /// Whether only the whole name counts.
    whole: bool,
}

impl Pattern {
    /// PEFT takes a pattern as a regular expression that a name or its dotted ending matches; here it is a name.
    fn read(key: &str, pattern: &str) -> Result<Self, String> {
        let (name, whole) = pattern.strip_prefix('^').map_or((pattern, false), |name| (name, true));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || !name.chars().all(plain) {
            let fault = "is not a name of a module or the end of one; regular expressions are not supported";
            return Err(format!("{key}: {} {fault}", printable(pattern)));
        }
        Ok(Self { name: name.to_owned(), whole })
    }

    fn matches(&self, module: &str) -> bool {
        match module.strip_suffix(self.name.as_str()) {
            Some("") => true,
            Some(rest) => !self.whole && rest.ends_with('.'),
            None => false,
        }
    }
}

impl AdapterConfig {
    /// Reads the file's text.
    ///
    /// # Errors
    /// With the option that is wrong or not supported.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let options: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| format!("is not a JSON object: {error}"))?;
        for (key, value) in &options {
            check_option(key, value)?;
        }
        let rank = rank("r", options.get("r").unwrap_or(&Value::Null))?;
        let alpha = alpha("lora_alpha", options.get("lora_alpha").unwrap_or(&Value::Null))?;
        Ok(Self {
            rank,
            alpha,
            root: options.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
            ranks: patterns(&options, "rank_pattern", self::rank)?,
            alphas: patterns(&options, "alpha_pattern", self::alpha)?,
        })
    }

    /// The rank of a module's factors. `module` is its dotted name in the base model.
    pub fn rank(&self, module: &str) -> usize {
        let found = self.ranks.iter().find(|(pattern, _)| pattern.matches(module));
        found.map_or(self.rank, |(_, rank)| *rank)
    }

    /// By what the product of a module's factors is multiplied.
    pub fn scale(&self, module: &str) -> f32 {
        let found = self.alphas.iter().find(|(pattern, _)| pattern.matches(module));
        let (alpha, rank) = (found.map_or(self.alpha, |(_, alpha)| *alpha), self.rank(module) as f32);
        alpha / if self.root { rank.sqrt() } else { rank }
    }
}

/// Refuses an option that changes what the factors mean in a way that is not implemented.
fn check_option(key: &str, value: &Value) -> Result<(), String> {
    let off = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    };
    match (key, value) {
        ("peft_type", Value::String(kind)) if kind == "LORA" => Ok(()),
        ("peft_type", _) => {
            Err(format!("peft_type: is {}; only adapters of type \"LORA\" are supported", shown(value)))
        }
        ("bias", Value::String(bias)) if bias == "none" => Ok(()),
        ("init_lora_weights", Value::String(way)) if CHANGES_BASE.iter().any(|start| way.starts_with(start)) => {
            let fault = "trains against a changed base model. Convert the adapter when it is saved \
                         (path_initial_model_for_weight_conversion)";
            Err(format!("init_lora_weights: {} {fault}", printable(way)))
        }
        ("init_lora_weights", Value::Bool(_) | Value::String(_)) => Ok(()),
        _ if off || TRAINING.contains(&key) => Ok(()),
        _ => Err(format!("{}: {} is not supported", printable(key), shown(value))),
    }
}

fn rank(key: &str, value: &Value) -> Result<usize, String> {
    let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
    rank.filter(|rank| (1..=MAX_RANK).contains(rank))
        .ok_or_else(|| format!("{key}: is {}, not a rank from 1 to {MAX_RANK}", shown(value)))
}

fn alpha(key: &str, value: &Value) -> Result<f32, String> {
    let alpha = value.as_f64().map(|alpha| alpha as f32);
    alpha.filter(|alpha| alpha.is_finite()).ok_or_else(|| format!("{key}: is {}, not a number", shown(value)))
}

fn patterns<T>(
    options: &Map<String, Value>,
    key: &str,
    read: impl Fn(&str, &Value) -> Result<T, String>,
) -> Result<Vec<(Pattern, T)>, String> {
    match options.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(patterns)) => {
            let patterns =
                patterns.iter().map(|(pattern, value)| Ok((Pattern::read(key, pattern)?, read(key, value)?)));
            patterns.collect()
        }
        Some(other) => Err(format!("{key}: is {}, not an object", shown(other))),
    }
}

/// A value from the file, fit to be printed.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// A name from the file, fit to be printed.
pub(super) fn printable(name: &str) -> String {
    format!("{:?}", name.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(change: impl FnOnce(&mut Map<String, Value>)) -> Result<AdapterConfig, String> {
        // What PEFT 0.21 writes.
        let mut options = json!({
            "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
            "auto_mapping": { "base_model_class": "LlamaForCausalLM" }, "base_model_name_or_path": "x", "bias": "none",
            "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "kasa_config": null,
            "layer_replication": null, "layers_pattern": null, "layers_to_transform": [0], "loftq_config": {},
            "lora_alpha": 8, "lora_bias": false, "lora_dropout": 0.1, "lora_ga_config": null, "megatron_config": null,
            "megatron_core": "megatron.core", "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA",
            "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": null,
            "target_modules": ["q_proj"], "target_parameters": null, "task_type": "CAUSAL_LM",
            "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false,
            "use_rslora": false, "velora_config": null
        });
        change(options.as_object_mut().unwrap());
        AdapterConfig::parse(options.to_string().as_bytes())
    }

    fn with(key: &str, value: Value) -> Result<AdapterConfig, String> {
        parse(|options| drop(options.insert(key.to_owned(), value)))
    }

    #[test]
    fn scales_follow_rank_and_alpha() {
        let module = "model.layers.0.self_attn.q_proj";
        assert_eq!(parse(|_| {}).unwrap().scale(module), 2.0);
        assert_eq!(with("use_rslora", json!(true)).unwrap().scale(module), 4.0);
        assert_eq!(with("lora_alpha", json!(0.5)).unwrap().scale(module), 0.125);
        let minimal = AdapterConfig::parse(br#"{"peft_type":"LORA","r":64,"lora_alpha":16}"#).unwrap();
        assert_eq!((minimal.rank(module), minimal.scale(module)), (64, 0.25));
    }

    #[test]
    fn patterns_are_names_and_endings_of_names_the_first_wins() {
        let ranks =
            json!({ "layers.1.self_attn.q_proj": 2, "^model.layers.0.mlp.up_proj": 16, "q_proj": 8, "proj": 1 });
        let config = with("rank_pattern", ranks).unwrap();
        assert_eq!(config.rank("model.layers.1.self_attn.q_proj"), 2);
        assert_eq!(config.rank("model.layers.11.self_attn.q_proj"), 8);
        assert_eq!(config.rank("model.layers.0.mlp.up_proj"), 16);
        assert_eq!(config.rank("language_model.model.layers.0.mlp.up_proj"), 4);
        assert_eq!(config.scale("model.layers.1.self_attn.q_proj"), 4.0);
        let config = with("alpha_pattern", json!({ "v_proj": 1 })).unwrap();
        assert_eq!(config.scale("model.layers.1.self_attn.v_proj"), 0.25);
        assert_eq!(config.scale("model.layers.1.self_attn.q_proj"), 2.0);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_its_name() {
        for (key, value) in [
            ("peft_type", json!("LOHA")),
            ("bias", json!("all")),
            ("bias", json!("lora_only")),
            ("use_dora", json!(true)),
            ("lora_bias", json!(true)),
            ("use_qalora", json!(true)),
            ("modules_to_save", json!(["lm_head"])),
            ("trainable_token_indices", json!([1])),
            ("target_parameters", json!(["experts"])),
            ("layer_replication", json!([[0, 2]])),
            ("alora_invocation_tokens", json!([5])),
            ("kasa_config", json!({ "beta": 1 })),
            ("an_option_of_tomorrow", json!(1)),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("olora")),
            ("r", json!(0)),
            ("r", json!(65)),
            ("r", json!(-1)),
            ("r", json!(1e9)),
            ("r", json!(null)),
            ("lora_alpha", json!("8")),
            ("lora_alpha", json!(1e300)),
            ("rank_pattern", json!([])),
            ("rank_pattern", json!({ "q_proj": 65 })),
            ("rank_pattern", json!({ ".*q_proj": 2 })),
            ("alpha_pattern", json!({ "": 2 })),
        ] {
            let fault = with(key, value.clone()).expect_err(key);
            assert!(fault.contains(key), "{key} {value}: {fault}");
        }
        for way in ["gaussian", "eva", "orthogonal"] {
            assert!(with("init_lora_weights", json!(way)).is_ok());
        }
        for text in ["", "[]", "{", "null", &"[".repeat(100_000)] {
            assert!(AdapterConfig::parse(text.as_bytes()).is_err());
        }
        let long = with(&"k".repeat(10_000), json!("v".repeat(10_000))).unwrap_err();
        assert!(long.len() < 300, "{long}");
    }
}
