//! What the tests of this module share: a writer of GGUF files, a tiny model, and a model that follows a script.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use host_kernels::kv::{KvShape, KvStore};

use super::forward::{ForwardError, ForwardPass, Span};
use super::gguf::Header;
use super::load::LoadOptions;
use super::model::TextModel;
use super::template::ChatTemplate;
use super::tokenizer::Vocabulary;
use crate::backend::{GenerateRequest, Prompt, Sampling};

/// Writes a GGUF file of version 3 piece by piece.
#[derive(Default, Clone)]
pub(crate) struct Writer {
    entries: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Writer {
    fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.entries.push([&string(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn number(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn float(self, key: &str, value: f32) -> Self {
        self.entry(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn boolean(self, key: &str, value: bool) -> Self {
        self.entry(key, 7, &[value.into()])
    }

    pub(crate) fn floats(self, key: &str, values: &[f32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.entry(key, 9, &[&6u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat())
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, &string(value))
    }

    pub(crate) fn texts(self, key: &str, values: &[String]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| string(v)).collect();
        self.entry(key, 9, &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat())
    }

    pub(crate) fn numbers(self, key: &str, values: &[i32]) -> Self {
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.entry(key, 9, &[&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat())
    }

    pub(crate) fn tensor(mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.into(), shape.to_vec(), kind, bytes));
        self
    }

    /// The same file with every matrix as float32, as candle decodes it.
    pub(crate) fn dequantized(mut self) -> Self {
        for (_, shape, kind, bytes) in &mut self.tensors {
            let dtype = match *kind {
                2 => GgmlDType::Q4_0,
                3 => GgmlDType::Q4_1,
                8 => GgmlDType::Q8_0,
                _ => continue,
            };
            let storage = QStorage::from_data(bytes.as_slice().into(), &Device::Cpu, dtype).unwrap();
            let values = QTensor::new(storage, shape.as_slice()).unwrap().dequantize(&Device::Cpu).unwrap();
            let values = values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            *kind = 0;
            *bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        }
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        out.extend(self.entries.concat());
        let mut offset = 0usize;
        for (name, shape, kind, bytes) in &self.tensors {
            out.extend(string(name));
            out.extend((shape.len() as u32).to_le_bytes());
            out.extend(shape.iter().rev().flat_map(|d| (*d as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(32);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out
    }
}

/// The 256 byte tokens, then `<|im_start|>` (256) and `<|im_end|>` (257).
fn vocabulary_entries(writer: Writer) -> Writer {
    let mut next = 256u32;
    let mut tokens = Vec::new();
    for byte in 0..=255u32 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let point = if printable { byte } else { next };
        next += u32::from(!printable);
        tokens.push(char::from_u32(point).unwrap().to_string());
    }
    tokens.extend(["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]);
    let mut types = vec![1; 256];
    types.extend([3, 3]);
    writer
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &tokens)
        .texts("tokenizer.ggml.merges", &[])
        .numbers("tokenizer.ggml.token_type", &types)
        .number("tokenizer.ggml.bos_token_id", 256)
        .number("tokenizer.ggml.eos_token_id", 257)
}

pub(crate) const VOCABULARY: usize = 258;
const IM_END: u32 = 257;

pub(crate) fn vocabulary() -> Vocabulary {
    let bytes = vocabulary_entries(Writer::default()).bytes();
    let header = Header::parse(&bytes).unwrap();
    Vocabulary::from_gguf(header.view(&bytes)).unwrap()
}

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}";

/// A llama of two layers with random weights, of `kinds` in turn.
pub(crate) fn tiny_llama(kinds: &[GgmlDType]) -> Writer {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(11);
    let (width, inner, heads, kv_heads) = (64usize, 128usize, 4u32, 2u32);
    let mut writer = vocabulary_entries(Writer::default())
        .text("general.architecture", "llama")
        .text("tokenizer.chat_template", TEMPLATE)
        .number("llama.block_count", 2)
        .number("llama.context_length", 256)
        .number("llama.embedding_length", width as u32)
        .number("llama.feed_forward_length", inner as u32)
        .number("llama.attention.head_count", heads)
        .number("llama.attention.head_count_kv", kv_heads)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let mut count = 0;
    let mut matrix = |writer: Writer, name: &str, rows: usize, columns: usize, scale: f32| {
        let values: Vec<f32> = (0..rows * columns).map(|_| random.random_range(-scale..scale)).collect();
        let dtype = kinds[count % kinds.len()];
        count += 1;
        let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
        let quantized = QTensor::quantize(&tensor, dtype).unwrap();
        let number = match dtype {
            GgmlDType::F32 => 0,
            GgmlDType::F16 => 1,
            GgmlDType::Q4_0 => 2,
            GgmlDType::Q4_1 => 3,
            GgmlDType::Q5_0 => 6,
            GgmlDType::Q8_0 => 8,
            other => panic!("{other:?}"),
        };
        writer.tensor(name, &[rows, columns], number, quantized.data().unwrap().to_vec())
    };
    let ones = |n: usize| (0..n).flat_map(|_| 1f32.to_le_bytes()).collect::<Vec<u8>>();
    writer = matrix(writer, "token_embd.weight", VOCABULARY, width, 1.0);
    for l in 0..2 {
        for (part, rows, columns) in [
            ("attn_q", width, width),
            ("attn_k", width / 2, width),
            ("attn_v", width / 2, width),
            ("attn_output", width, width),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ] {
            writer = matrix(writer, &format!("blk.{l}.{part}.weight"), rows, columns, 0.4);
        }
        for part in ["attn_norm", "ffn_norm"] {
            writer = writer.tensor(&format!("blk.{l}.{part}.weight"), &[width], 0, ones(width));
        }
    }
    writer.tensor("output_norm.weight", &[width], 0, ones(width))
}

/// Puts a file where it can be mapped; it goes with the directory.
pub(crate) fn file(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

/// A model that answers byte `b` with byte `b + 1`, ends its turn after `~`, gives no numbers after `N` and panics at
/// `P` in a prompt. It records the prompts that it starts and, with a gate, waits to be let through each step.
struct Counter {
    started: Arc<Mutex<Vec<u8>>>,
    steps: Arc<AtomicUsize>,
    gate: Option<mpsc::Receiver<()>>,
    logits: Vec<f32>,
}

impl ForwardPass for Counter {
    type Cache = KvStore;
    const PREFILL: usize = 256;

    fn forward(&mut self, _: &mut KvStore, spans: &[Span<'_>]) -> Result<&[f32], ForwardError> {
        self.steps.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            // A closed gate lets everything through.
            let _ = gate.recv();
        }
        self.logits.clear();
        for span in spans {
            if span.position == 0 {
                self.started.lock().unwrap().push(span.tokens[0] as u8);
                assert!(!span.tokens.contains(&u32::from(b'P')), "a scripted panic");
            }
            for last in span.tokens.iter().rev().take(span.logits).rev() {
                let next = if *last == u32::from(b'~') { IM_END } else { last + 1 };
                let value = if *last == u32::from(b'N') { f32::NAN } else { 0.0 };
                self.logits.extend((0..VOCABULARY as u32).map(|token| if token == next { 9.0 } else { value }));
            }
        }
        Ok(&self.logits)
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }
}

pub(crate) struct Scripted {
    pub(crate) model: TextModel,
    /// The first byte of each prompt, in the order in which they were started.
    pub(crate) started: Arc<Mutex<Vec<u8>>>,
    pub(crate) steps: Arc<AtomicUsize>,
    /// Lets one step through each time.
    pub(crate) gate: Option<mpsc::Sender<()>>,
}

/// A model that counts, with `blocks` blocks of cache.
pub(crate) fn scripted(options: &LoadOptions, blocks: usize, gated: bool) -> Scripted {
    let (sender, receiver) = mpsc::channel();
    let (started, steps): (Arc<Mutex<Vec<u8>>>, Arc<AtomicUsize>) = Default::default();
    let gate = gated.then_some(receiver);
    let counter = Counter { started: started.clone(), steps: steps.clone(), gate, logits: Vec::new() };
    let store = KvStore::new(KvShape { layers: 1, heads: 1, width: 1 }, blocks);
    let template = ChatTemplate::new("{{ messages[0].content }}", "", "").unwrap();
    let model =
        TextModel::start(counter, store, vocabulary(), Some(template), Default::default(), blocks * 32, 0, options)
            .unwrap();
    Scripted { model, started, steps, gate: gated.then_some(sender) }
}

pub(crate) fn greedy() -> Sampling {
    Sampling {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: None,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
    }
}

pub(crate) fn request(prompt: &str, max_tokens: usize) -> GenerateRequest {
    GenerateRequest::new("t".into(), Prompt::Raw(prompt.into()), greedy(), max_tokens)
}
