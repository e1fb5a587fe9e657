//! Models for tests: a tiny encoder with random weights, and the real ones of the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use host_inference::store::{self, Layout, ModelName, Store};
use host_inference::{RunOutput, RunRequest};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

pub(crate) const HIDDEN: usize = 24;
pub(crate) const VOCABULARY: usize = 56;
pub(crate) const POSITIONS: usize = 40;
pub(crate) const LAYERS: usize = 2;
pub(crate) const INTERMEDIATE: usize = 40;

/// A request of the tenant `test`.
pub(crate) fn request(model: &str, inputs: Value) -> RunRequest {
    request_of("test", model, inputs)
}

pub(crate) fn request_of(tenant: &str, model: &str, inputs: Value) -> RunRequest {
    let Value::Object(inputs) = inputs else { panic!("inputs are an object") };
    RunRequest { tenant: tenant.into(), model: model.to_owned(), inputs, attachments: Vec::new(), options: Map::new() }
}

pub(crate) fn json_of(output: RunOutput) -> Value {
    match output {
        RunOutput::Json(value) => value,
        RunOutput::Stream { .. } => panic!("a stream, not JSON"),
    }
}

/// The folder of a real model. A missing one is a failure that says how to get it.
pub(crate) fn real(name: &str) -> PathBuf {
    let store = Store::open(store::default_directory());
    let parsed: ModelName = name.parse().unwrap();
    match store.find(&parsed).unwrap().map(|installed| installed.layout) {
        Some(Layout::Safetensors(folder)) => folder,
        Some(other) => panic!("{name} is {other:?}"),
        None => {
            panic!("this test needs a model that is not in {}: host models pull {name}", store.directory().display())
        }
    }
}

/// The GGUF file of a real model. A missing one is a failure that says how to get it.
pub(crate) fn real_gguf(name: &str) -> PathBuf {
    let folder = store::default_directory().join(name);
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let gguf = files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")).min();
    gguf.unwrap_or_else(|| panic!("no model in {}: fetch it with `host models pull {name}`", folder.display()))
}

pub(crate) fn config() -> Value {
    json!({
        "model_type": "bert", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 3, "intermediate_size": INTERMEDIATE, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02, "pad_token_id": 0, "position_embedding_type": "absolute", "use_cache": true
    })
}

/// A tokenizer of letters that, like published ones, pads and cuts by itself.
pub(crate) fn tokenizer() -> Value {
    let mut vocab = Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.insert(token, json!(id));
    };
    for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] {
        add(token.to_owned());
    }
    ('a'..='z').for_each(|letter| add(letter.to_string()));
    ('a'..='z').for_each(|letter| add(format!("##{letter}")));
    let special = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let token = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 6 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), text, token("[SEP]")],
            "pair": [token("[CLS]"), text, token("[SEP]"), { "Sequence": { "id": "B", "type_id": 1 } }, token("[SEP]")],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] }
            }
        },
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": vocab }
    })
}

/// The names and shapes of the encoder's tensors.
pub(crate) fn shapes() -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        shapes.insert(name, shape.to_vec());
    };
    add("embeddings.word_embeddings.weight".into(), &[VOCABULARY, HIDDEN]);
    add("embeddings.position_embeddings.weight".into(), &[POSITIONS, HIDDEN]);
    add("embeddings.token_type_embeddings.weight".into(), &[2, HIDDEN]);
    add("embeddings.LayerNorm.weight".into(), &[HIDDEN]);
    add("embeddings.LayerNorm.bias".into(), &[HIDDEN]);
    for layer in 0..LAYERS {
        let mut dense = |name: &str, outputs: usize, inputs: usize| {
            add(format!("encoder.layer.{layer}.{name}.weight"), &[outputs, inputs]);
            add(format!("encoder.layer.{layer}.{name}.bias"), &[outputs]);
        };
        for part in ["query", "key", "value"] {
            dense(&format!("attention.self.{part}"), HIDDEN, HIDDEN);
        }
        dense("attention.output.dense", HIDDEN, HIDDEN);
        dense("intermediate.dense", INTERMEDIATE, HIDDEN);
        dense("output.dense", HIDDEN, INTERMEDIATE);
        for norm in ["attention.output.LayerNorm", "output.LayerNorm"] {
            add(format!("encoder.layer.{layer}.{norm}.weight"), &[HIDDEN]);
            add(format!("encoder.layer.{layer}.{norm}.bias"), &[HIDDEN]);
        }
    }
    shapes
}

/// A safetensors file of these tensors with random values.
pub(crate) fn safetensors(shapes: &BTreeMap<String, Vec<usize>>, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.5
    };
    let data: Vec<(&String, &Vec<usize>, Vec<u8>)> = shapes
        .iter()
        .map(|(name, shape)| {
            let bytes = (0..shape.iter().product::<usize>()).flat_map(|_| next().to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views =
        data.iter().map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, (*shape).clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Writes the tiny encoder and gives the size of its files.
pub(crate) fn tiny_encoder(folder: &Path, seed: u32) -> u64 {
    std::fs::create_dir_all(folder).unwrap();
    let mut shapes = shapes();
    // As of a published checkpoint, most of its size is weights and not what a request takes.
    shapes.insert("unused.weight".to_owned(), vec![1024, 512]);
    let files = [
        ("config.json", serde_json::to_vec(&config()).unwrap()),
        ("tokenizer.json", serde_json::to_vec(&tokenizer()).unwrap()),
        ("model.safetensors", safetensors(&shapes, seed)),
    ];
    files
        .iter()
        .map(|(name, bytes)| std::fs::write(folder.join(name), bytes).map(|()| bytes.len() as u64).unwrap())
        .sum()
}

/// Writes a tiny language model of random weights as checkpoints are published, in two shards, and gives the size of its
/// files. Its tokens are the bytes, then `<|im_start|>` and `<|im_end|>`.
pub(crate) fn tiny_checkpoint(folder: &Path) -> u64 {
    const WIDTH: usize = 32;
    const TOKENS: usize = 258;
    let mut next = 256u32;
    let mut vocab = Map::new();
    for byte in 0..=255u32 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let letter = char::from_u32(if printable { byte } else { next }).unwrap();
        next += u32::from(!printable);
        vocab.insert(letter.to_string(), json!(byte));
    }
    let added = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [added(256, "<|im_start|>"), added(257, "<|im_end|>")],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] }
    });
    let config = json!({
        "model_type": "qwen2", "vocab_size": TOKENS + 6, "hidden_size": WIDTH, "num_hidden_layers": 2,
        "intermediate_size": 2 * WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 256, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu",
        "eos_token_id": 257
    });
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}";
    let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
    first.insert("model.embed_tokens.weight".to_owned(), vec![TOKENS + 6, WIDTH]);
    second.insert("model.norm.weight".to_owned(), vec![WIDTH]);
    for layer in 0..2 {
        let shapes = if layer == 0 { &mut first } else { &mut second };
        let mut add =
            |name: &str, shape: &[usize]| shapes.insert(format!("model.layers.{layer}.{name}"), shape.to_vec());
        for (part, rows) in [("q_proj", WIDTH), ("k_proj", WIDTH / 2), ("v_proj", WIDTH / 2)] {
            add(&format!("self_attn.{part}.weight"), &[rows, WIDTH]);
            add(&format!("self_attn.{part}.bias"), &[rows]);
        }
        add("self_attn.o_proj.weight", &[WIDTH, WIDTH]);
        add("mlp.gate_proj.weight", &[2 * WIDTH, WIDTH]);
        add("mlp.up_proj.weight", &[2 * WIDTH, WIDTH]);
        add("mlp.down_proj.weight", &[WIDTH, 2 * WIDTH]);
        add("input_layernorm.weight", &[WIDTH]);
        add("post_attention_layernorm.weight", &[WIDTH]);
    }
    let shard = |name: &str, shapes: &BTreeMap<String, Vec<usize>>| -> Map<String, Value> {
        shapes.keys().map(|tensor| (tensor.clone(), json!(name))).collect()
    };
    let mut map = shard("model-00001-of-00002.safetensors", &first);
    map.extend(shard("model-00002-of-00002.safetensors", &second));
    std::fs::create_dir_all(folder).unwrap();
    let files = [
        ("config.json", config.to_string().into_bytes()),
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        ("tokenizer_config.json", json!({ "chat_template": template }).to_string().into_bytes()),
        ("model.safetensors.index.json", json!({ "weight_map": map }).to_string().into_bytes()),
        ("model-00001-of-00002.safetensors", safetensors(&first, 1)),
        ("model-00002-of-00002.safetensors", safetensors(&second, 2)),
    ];
    files
        .iter()
        .map(|(name, bytes)| std::fs::write(folder.join(name), bytes).map(|()| bytes.len() as u64).unwrap())
        .sum()
}
