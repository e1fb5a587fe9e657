//! The layers that the networks here share, with their weights.

use std::num::NonZeroUsize;
use std::sync::Arc;

use host_kernels::encoder;
use host_kernels::floats::FloatMatrix;
use host_kernels::isa::Isa;
use host_kernels::linear::Rows;
use host_kernels::maps::{self, Attention, Mode};
use host_kernels::threads::ThreadPool;
use host_kernels::vision::{self, Activation, Conv, Map};
use serde_json::Value;

use crate::AiError;
use crate::tensors::Tensors;

/// What computes: instructions and threads.
pub(super) struct Compute {
    pub(super) isa: Isa,
    pub(super) pool: ThreadPool,
}

impl Compute {
    pub(super) fn new(threads: NonZeroUsize) -> Result<Compute, String> {
        let pool = ThreadPool::new("vision", threads).map_err(|error| format!("no threads for the model: {error}"))?;
        Ok(Compute { isa: Isa::best(), pool })
    }

    pub(super) fn activate(&self, rows: &mut [f32], width: usize, activation: Activation) {
        vision::each_row_block(&self.pool, rows, width, |_, block| vision::activate(self.isa, block, activation));
    }
}

/// A product with a bias, which may be missing. Its weights are in memory as they are in the file.
pub(super) struct Linear {
    weight: Arc<FloatMatrix>,
    bias: Vec<f32>,
}

impl Linear {
    pub(super) fn load(tensors: &mut Tensors, name: &str, outputs: usize, inputs: usize) -> Result<Linear, String> {
        Self::joined(tensors, &[name.to_owned()], outputs, inputs)
    }

    /// Products of the same rows, each of `outputs` values, made one.
    pub(super) fn joined(
        tensors: &mut Tensors,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear, String> {
        let mut bias = Vec::new();
        let biased = names.iter().any(|name| tensors.shape(&format!("{name}.bias")).is_some());
        let mut parts = Vec::with_capacity(names.len());
        for name in names {
            parts.push(tensors.raw(&format!("{name}.weight"), &[outputs, inputs])?);
            if biased {
                bias.append(&mut tensors.read(&format!("{name}.bias"), &[outputs])?);
            }
        }
        let (rows, format) = (names.len() * outputs, parts[0].0);
        let weight = if parts.iter().all(|(other, _)| *other == format) {
            let bytes: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
            FloatMatrix::repack(format, rows, inputs, &bytes)
        } else {
            let mut values = Vec::new();
            for name in names {
                values.append(&mut tensors.read(&format!("{name}.weight"), &[outputs, inputs])?);
            }
            FloatMatrix::from_values(&values, rows)
        };
        let weight = weight.map_err(|error| format!("tensor {}.weight: {error}", names[0]))?;
        Ok(Linear { weight: Arc::new(weight), bias })
    }

    pub(super) fn new(weight: &[f32], bias: Vec<f32>, outputs: usize) -> Result<Linear, String> {
        let weight = FloatMatrix::from_values(weight, outputs).map_err(|error| error.to_string())?;
        Ok(Linear { weight: Arc::new(weight), bias })
    }

    /// The product with the rows of a table.
    pub(super) fn of(table: &Table, bias: Vec<f32>) -> Linear {
        Linear { weight: table.0.clone(), bias }
    }

    pub(super) fn outputs(&self) -> usize {
        self.weight.rows()
    }

    pub(super) fn apply(&self, compute: &Compute, x: &[f32]) -> Vec<f32> {
        let rows = Rows::dense(x, self.weight.columns());
        let mut y = vec![0.0; rows.count * self.weight.rows()];
        maps::project(compute.isa, &compute.pool, rows, &self.weight, &self.bias, Mode::Replace, &mut y);
        y
    }
}

/// A vector for each word.
pub(super) struct Table(Arc<FloatMatrix>);

impl Table {
    /// Reads the tensor `name`.
    pub(super) fn load(tensors: &mut Tensors, name: &str, count: usize, width: usize) -> Result<Table, String> {
        let (format, bytes) = tensors.raw(name, &[count, width])?;
        let table = FloatMatrix::repack(format, count, width, &bytes);
        Ok(Table(Arc::new(table.map_err(|error| format!("tensor {name}: {error}"))?)))
    }

    /// Vectors.
    pub(super) fn count(&self) -> usize {
        self.0.rows()
    }

    /// The vectors of `ids`, each below [`Self::count`], one behind the other.
    pub(super) fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let width = self.0.columns();
        let mut rows = vec![0.0; ids.len() * width];
        rows.chunks_exact_mut(width).zip(ids).for_each(|(row, id)| self.0.row(*id as usize, row));
        rows
    }
}

/// Layer normalization.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn load(tensors: &mut Tensors, name: &str, width: usize, epsilon: f32) -> Result<Norm, String> {
        let weight = tensors.read(&format!("{name}.weight"), &[width])?;
        let bias = tensors.read(&format!("{name}.bias"), &[width])?;
        Ok(Norm { weight, bias, epsilon })
    }

    pub(super) fn apply(&self, compute: &Compute, rows: &mut [f32]) {
        self.add_and_apply(compute, rows, &[]);
    }

    /// `rows = norm(rows + other)`.
    pub(super) fn add_and_apply(&self, compute: &Compute, rows: &mut [f32], other: &[f32]) {
        let width = self.weight.len();
        vision::each_row_block(&compute.pool, rows, width, |first, block| {
            let other = if other.is_empty() { other } else { &other[first * width..][..block.len()] };
            encoder::add_and_normalize(compute.isa, block, other, &self.weight, &self.bias, self.epsilon);
        });
    }

    pub(super) fn of(&self, compute: &Compute, rows: &[f32]) -> Vec<f32> {
        let mut copy = rows.to_vec();
        self.apply(compute, &mut copy);
        copy
    }
}

/// The sizes of a transformer's tower.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tower {
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) activation: Activation,
    pub(super) epsilon: f32,
}

impl Tower {
    /// Values that so many rows hold at most in a layer: the rows, normalized, as queries, keys and values, and what they
    /// saw; or the inner values, and what they add.
    pub(super) fn peak(&self, rows: usize) -> usize {
        rows * (3 * self.hidden + (4 * self.hidden).max(self.intermediate))
    }

    /// Reads the usual keys of a configuration; `default` is what its class takes a missing key for. The error names
    /// the key and its bounds.
    pub(super) fn parse(config: &Value, default: Tower) -> Result<Tower, String> {
        let tower = Tower {
            hidden: whole(config, "hidden_size", Some(default.hidden), 1 << 13)?,
            intermediate: whole(config, "intermediate_size", Some(default.intermediate), 1 << 16)?,
            layers: whole(config, "num_hidden_layers", Some(default.layers), 128)?,
            heads: whole(config, "num_attention_heads", Some(default.heads), 256)?,
            activation: match config.get("hidden_act").and_then(Value::as_str) {
                None => default.activation,
                Some(name) => activation(name)?,
            },
            epsilon: match config.get("layer_norm_eps").map(Value::as_f64) {
                None => default.epsilon,
                Some(Some(epsilon)) if (0.0..1.0).contains(&epsilon) => epsilon as f32,
                Some(_) => return Err("layer_norm_eps is not 0 to 1".to_owned()),
            },
        };
        if tower.hidden.is_multiple_of(tower.heads) {
            Ok(tower)
        } else {
            Err(format!("hidden_size {} is no multiple of num_attention_heads {}", tower.hidden, tower.heads))
        }
    }
}

pub(super) fn activation(name: &str) -> Result<Activation, String> {
    Ok(match name {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        other => return Err(format!("the activation {other:.40?} is not known")),
    })
}

/// A whole number from 1 to `most` under `key`, `default` where it is missing. The error names the key and its bounds.
pub(super) fn whole(config: &Value, key: &str, default: Option<usize>, most: usize) -> Result<usize, String> {
    let value = match config.get(key) {
        None | Some(Value::Null) => default.ok_or_else(|| format!("it has no {key}"))?,
        Some(value) => value.as_u64().and_then(|value| usize::try_from(value).ok()).unwrap_or(0),
    };
    if (1..=most).contains(&value) { Ok(value) } else { Err(format!("{key} is not a whole number from 1 to {most}")) }
}

/// How a family of checkpoints calls the parts of a layer.
pub(super) struct Names {
    pub(super) before: &'static str,
    /// Query, key and value, or one tensor that holds all three.
    pub(super) qkv: &'static [&'static str],
    pub(super) out: &'static str,
    pub(super) after: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
}

/// A transformer's layer that normalizes before each half.
pub(super) struct Layer {
    before: Norm,
    qkv: Linear,
    out: Linear,
    after: Norm,
    mlp: Mlp,
}

impl Layer {
    pub(super) fn load(tensors: &mut Tensors, prefix: &str, names: &Names, tower: &Tower) -> Result<Layer, String> {
        let Tower { hidden, epsilon, .. } = *tower;
        let name = |part: &str| format!("{prefix}.{part}");
        let parts: Vec<String> = names.qkv.iter().map(|part| name(part)).collect();
        Ok(Layer {
            before: Norm::load(tensors, &name(names.before), hidden, epsilon)?,
            qkv: Linear::joined(tensors, &parts, 3 * hidden / parts.len(), hidden)?,
            out: Linear::load(tensors, &name(names.out), hidden, hidden)?,
            after: Norm::load(tensors, &name(names.after), hidden, epsilon)?,
            mlp: Mlp::load(tensors, &name(names.up), &name(names.down), tower)?,
        })
    }

    /// All layers of a tower, `{prefix}.0` and on.
    pub(super) fn all(tensors: &mut Tensors, prefix: &str, names: &Names, tower: &Tower) -> Result<Vec<Layer>, String> {
        (0..tower.layers).map(|index| Self::load(tensors, &format!("{prefix}.{index}"), names, tower)).collect()
    }

    pub(super) fn forward(&self, compute: &Compute, tower: &Tower, states: &mut [f32], causal: bool) {
        let qkv = self.qkv.apply(compute, &self.before.of(compute, states));
        let answers = attend_joined(compute, &qkv, tower.hidden, tower.heads, causal);
        add(states, &self.out.apply(compute, &answers));
        add(states, &self.mlp.apply(compute, &self.after.of(compute, states)));
    }
}

/// The feed-forward half of a layer.
pub(super) struct Mlp {
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    pub(super) fn load(tensors: &mut Tensors, up: &str, down: &str, tower: &Tower) -> Result<Mlp, String> {
        let up = Linear::load(tensors, up, tower.intermediate, tower.hidden)?;
        let down = Linear::load(tensors, down, tower.hidden, tower.intermediate)?;
        Ok(Mlp { up, down, activation: tower.activation })
    }

    pub(super) fn apply(&self, compute: &Compute, x: &[f32]) -> Vec<f32> {
        let mut inner = self.up.apply(compute, x);
        compute.activate(&mut inner, self.up.outputs(), self.activation);
        self.down.apply(compute, &inner)
    }
}

/// Attention of rows to each other, where a row is query, key and value beside each other.
pub(super) fn attend_joined(compute: &Compute, qkv: &[f32], hidden: usize, heads: usize, causal: bool) -> Vec<f32> {
    let stride = 3 * hidden;
    let count = qkv.len() / stride;
    let rows = |start: usize| Rows { data: qkv.get(start..).unwrap_or_default(), stride, count };
    let (queries, keys, values) = (rows(0), rows(hidden), rows(2 * hidden));
    attend(compute, [queries, keys, values], hidden / heads, heads, causal)
}

/// Attention of dense rows to other dense rows.
pub(super) fn attend_dense(
    compute: &Compute,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    hidden: usize,
    heads: usize,
) -> Vec<f32> {
    let rows = |data| Rows::dense(data, hidden);
    let (queries, keys, values) = (rows(queries), rows(keys), rows(values));
    attend(compute, [queries, keys, values], hidden / heads, heads, false)
}

/// What queries see of keys and values; the last query is at the last key's place if `causal`.
pub(super) fn attend(
    compute: &Compute,
    [queries, keys, values]: [Rows<'_>; 3],
    width: usize,
    heads: usize,
    causal: bool,
) -> Vec<f32> {
    let scale = 1.0 / (width as f32).sqrt();
    let attention = Attention { queries, keys, values, heads, width, scale, bias: &[], causal };
    let mut out = vec![0.0; queries.count * heads * width];
    maps::attend(compute.isa, &compute.pool, &attention, &mut out);
    out
}

/// A picture cut into patches, each made one row.
pub(super) struct Patches {
    conv: Conv,
    /// Height and width of the picture.
    image: (usize, usize),
    /// Patches of a picture.
    pub(super) count: usize,
}

impl Patches {
    /// Reads the product of the patches; `config` is the one that has `image_size` and `patch_size`.
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        config: &Value,
        hidden: usize,
        default: (usize, usize),
    ) -> Result<Patches, String> {
        let image = whole(config, "image_size", Some(default.0), 2048)?;
        let patch = whole(config, "patch_size", Some(default.1), 256)?;
        if patch > image || whole(config, "num_channels", Some(3), 3)? != 3 {
            return Err(format!("patches of {patch} do not fit pictures of {image} in three channels"));
        }
        let weight = tensors.read(&format!("{name}.weight"), &[hidden, 3, patch, patch])?;
        let bias = format!("{name}.bias");
        let bias = if tensors.shape(&bias).is_some() { tensors.read(&bias, &[hidden])? } else { Vec::new() };
        Ok(Patches {
            conv: Conv::new(&weight, bias, 3, patch, patch, 0),
            image: (image, image),
            count: (image / patch).pow(2),
        })
    }

    /// Whether pictures come out of the preprocessing as the model has positions for them.
    pub(super) fn check(&self, given: Option<(usize, usize)>) -> Result<(), String> {
        if given == Some(self.image) {
            return Ok(());
        }
        Err(format!("preprocessor_config.json gives pictures of {given:?}, config.json wants {:?}", self.image))
    }

    pub(super) fn apply(&self, compute: &Compute, picture: &Map) -> Vec<f32> {
        self.conv.apply(compute.isa, &compute.pool, picture, false).data
    }
}

pub(super) fn add(values: &mut [f32], more: &[f32]) {
    values.iter_mut().zip(more).for_each(|(value, more)| *value += more);
}

/// Refuses what broken weights give.
///
/// # Errors
/// 3046 when a value is no number.
pub(super) fn finite(values: &[f32]) -> Result<(), AiError> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(AiError::model_unavailable("its weights give values that are no numbers; verify the model"))
}
