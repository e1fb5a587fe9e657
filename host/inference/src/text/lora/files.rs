//! An adapter's folder, as far as it can be checked without the base model: the configuration and the tensors' names,
//! types and ranks.
//!
//! PEFT names a factor `base_model.model.` + the module's name in the base model + `.lora_A.weight` or `.lora_B.weight`;
//! other tools leave the prefix out. Values are read one tensor at a time, after the base model has confirmed its shape;
//! like all safetensors files here, the file is read and not mapped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use host_kernels::low_rank::Values;
use safetensors::Dtype;

use super::config::{AdapterConfig, MAX_RANK, printable};
use super::{AdapterError, Projection};
use crate::store::check_safetensors;

/// Bytes that a configuration may have. PEFT writes some 2 KB.
const MAX_CONFIG: u64 = 1 << 20;

/// One factor in the file.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    pub(super) name: String,
    dtype: Dtype,
    shape: [usize; 2],
    /// Bytes from the start of the tensors' data.
    place: (usize, usize),
}

/// A module of the base model with its two factors.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) layer: usize,
    kind: Kind,
    pub(super) rank: usize,
    pub(super) scale: f32,
    /// `A`, `[rank][inputs]`.
    pub(super) down: Factor,
    /// `B`, `[outputs][rank]`.
    pub(super) up: Factor,
}

impl Module {
    /// What it computes, in the order of its rows.
    pub(super) fn projections(&self) -> &'static [Projection] {
        self.kind.2
    }

    pub(super) fn outputs(&self) -> usize {
        self.up.shape[0]
    }
}

/// A module that adapters may have, and what of a layer it computes.
type Kind = (&'static str, &'static str, &'static [Projection]);

const KINDS: [Kind; 9] = [
    ("self_attn", "q_proj", &[Projection::Query]),
    ("self_attn", "k_proj", &[Projection::Key]),
    ("self_attn", "v_proj", &[Projection::Value]),
    ("self_attn", "qkv_proj", &[Projection::Query, Projection::Key, Projection::Value]),
    ("self_attn", "o_proj", &[Projection::Output]),
    ("mlp", "gate_proj", &[Projection::Gate]),
    ("mlp", "up_proj", &[Projection::Up]),
    ("mlp", "gate_up_proj", &[Projection::Gate, Projection::Up]),
    ("mlp", "down_proj", &[Projection::Down]),
];

/// What was found of a module so far: its name in the base model, and `A` and `B`.
struct Found {
    module: String,
    factors: [Option<Factor>; 2],
}

/// An adapter's folder, opened.
#[derive(Debug)]
pub struct AdapterFiles {
    path: PathBuf,
    file: File,
    data_start: u64,
    bytes: u64,
    modules: Vec<Module>,
}

impl AdapterFiles {
    /// Reads the configuration and the header of the folder `directory`.
    ///
    /// # Errors
    /// When a file is missing or broken, or asks for something that is not implemented.
    pub fn open(directory: &Path) -> Result<Self, AdapterError> {
        let config_path = directory.join("adapter_config.json");
        let config = read_config(&config_path).map_err(|fault| AdapterError::new(&config_path, fault))?;
        let path = directory.join("adapter_model.safetensors");
        let fault = |fault: String| AdapterError::new(&path, fault);
        let header = check_safetensors(&path).map_err(fault)?;
        let file = File::open(&path).map_err(|error| fault(format!("cannot be opened: {error}")))?;
        let mut found: BTreeMap<(usize, usize), Found> = BTreeMap::new();
        for name in header.metadata.offset_keys() {
            let (module, at, part) = place(&name).map_err(fault)?;
            let Some(info) = header.metadata.info(&name) else { continue };
            let &[rows, columns] = info.shape.as_slice() else {
                return Err(fault(format!("tensor {name} has {} dimensions, not 2", info.shape.len())));
            };
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(fault(format!("tensor {name} holds {:?}; F32, F16 and BF16 are known", info.dtype)));
            }
            let factor = Factor { dtype: info.dtype, shape: [rows, columns], place: info.data_offsets, name };
            let found = found.entry(at).or_insert(Found { module, factors: [None, None] });
            if let Some(other) = found.factors[part].replace(factor) {
                return Err(fault(format!("tensor {} is there under another name too", other.name)));
            }
        }
        let modules = found.into_iter().map(|((layer, kind), Found { module, factors })| match factors {
            [Some(down), Some(up)] => pair(&config, &module, layer, KINDS[kind], down, up),
            _ => Err(format!("{module} has only one of lora_A.weight and lora_B.weight")),
        });
        let modules: Vec<Module> = modules.collect::<Result<_, _>>().map_err(fault)?;
        if modules.is_empty() {
            return Err(fault("holds no factors".into()));
        }
        let bytes = header.metadata.data_len() as u64;
        Ok(Self { file, data_start: header.data_start, bytes, modules, path })
    }

    /// Bytes of all factors, in the file and in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn take_modules(&mut self) -> Vec<Module> {
        std::mem::take(&mut self.modules)
    }

    pub(super) fn fault(&self, fault: String) -> AdapterError {
        AdapterError::new(&self.path, fault)
    }

    /// Compares a factor with the shape that the base model asks for.
    pub(super) fn check_shape(&self, factor: &Factor, shape: [usize; 2]) -> Result<(), AdapterError> {
        if factor.shape == shape {
            return Ok(());
        }
        let fault = format!(
            "tensor {} has the shape {:?}, the base model asks for {shape:?}: is the adapter one for another model?",
            factor.name, factor.shape
        );
        Err(self.fault(fault))
    }

    /// The values of a factor whose shape has been checked, with its bytes put in another order by `order`.
    pub(super) fn values(
        &mut self,
        factor: &Factor,
        order: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> Result<Values, AdapterError> {
        let (start, end) = factor.place;
        let mut bytes = vec![0; end - start];
        let read = self.file.seek(SeekFrom::Start(self.data_start + start as u64));
        read.and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| self.fault(format!("tensor {} cannot be read: {error}", factor.name)))?;
        let bytes = order(bytes);
        let halves = || bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        let values = match factor.dtype {
            Dtype::F16 => Values::F16(halves()),
            Dtype::BF16 => Values::Bf16(halves()),
            _ => Values::F32(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        };
        if !values.all_finite() {
            return Err(self.fault(format!("tensor {} holds values that are not finite", factor.name)));
        }
        Ok(values)
    }
}

fn read_config(path: &Path) -> Result<AdapterConfig, String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut text = Vec::new();
    let read = file.take(MAX_CONFIG + 1).read_to_end(&mut text);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(format!("is longer than the {MAX_CONFIG} bytes that are accepted"));
    }
    AdapterConfig::parse(&text)
}

/// What a tensor's name says: the module's name in the base model, its layer and its place in [`KINDS`], and 0 for `A` or
/// 1 for `B`.
fn place(name: &str) -> Result<(String, (usize, usize), usize), String> {
    let unknown = || {
        format!(
            "tensor {} is not a factor that can be applied; lora_A.weight and lora_B.weight of the layers' projections \
             are (embeddings, the output head and DoRA's magnitudes are not supported)",
            printable(name)
        )
    };
    let path = name.strip_prefix("base_model.model.").unwrap_or(name);
    let [a, b] = ["lora_A", "lora_B"].map(|factor| {
        let module = path.strip_suffix(".weight")?;
        let module = module.strip_suffix(".default").unwrap_or(module);
        module.strip_suffix(factor)?.strip_suffix('.')
    });
    let (module, part) = a.map(|a| (a, 0)).or(b.map(|b| (b, 1))).ok_or_else(unknown)?;
    let layer = ["model.", "language_model.model.", "model.language_model.", ""]
        .into_iter()
        .find_map(|prefix| module.strip_prefix(prefix)?.strip_prefix("layers."))
        .ok_or_else(unknown)?;
    let parts: Vec<&str> = layer.splitn(4, '.').collect();
    let &[layer, block, projection] = parts.as_slice() else { return Err(unknown()) };
    let kind = KINDS.iter().position(|kind| (kind.0, kind.1) == (block, projection)).ok_or_else(unknown)?;
    let layer = layer.parse().ok().filter(|number: &usize| number.to_string() == layer).ok_or_else(unknown)?;
    Ok((module.to_owned(), (layer, kind), part))
}

/// Two factors of a module whose ranks are what the configuration says.
fn pair(
    config: &AdapterConfig,
    module: &str,
    layer: usize,
    kind: Kind,
    down: Factor,
    up: Factor,
) -> Result<Module, String> {
    let rank = config.rank(module);
    for (factor, found) in [(&down, down.shape[0]), (&up, up.shape[1])] {
        if found != rank {
            let fault = format!("has rank {found}, adapter_config.json says {rank} (of at most {MAX_RANK})");
            return Err(format!("tensor {} {fault}", factor.name));
        }
    }
    Ok(Module { layer, kind, rank, scale: config.scale(module), down, up })
}
