//! Objects and their boxes: DETR (Carion et al. 2020).
//!
//! A residual network sees the picture, a transformer's encoder lets the places of what it saw look at each other, and a
//! fixed number of learned queries ask its decoder for one object each, or none. Positions are added to queries and keys
//! at every attention, never to values. The weights of the residual network come under timm's names in the published
//! checkpoints and under transformers' in newer ones.

use host_kernels::vision::{Activation, Conv, Map};
use serde_json::Value;

use super::labels::softmax;
use super::layers::{Compute, Linear, Norm, activation, attend_dense, finite, whole};
use super::resnet::{Backbone, Naming, Strides};
use crate::AiError;
use crate::tensors::Tensors;

const BACKBONE: &str = "model.backbone.conv_encoder.model.";
const EPSILON: f32 = 1e-5;

/// `DetrForObjectDetection`.
pub(super) struct Detr {
    hidden: usize,
    backbone: Backbone,
    projection: Conv,
    encoder: Vec<EncoderLayer>,
    decoder: Vec<DecoderLayer>,
    norm: Norm,
    queries: Vec<f32>,
    classes: Linear,
    boxes: [Linear; 3],
}

/// What one query found: the best class but "nothing", its probability, and the box's centre and size in parts of the
/// picture's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    pub(super) class: usize,
    pub(super) score: f32,
    pub(super) centre: [f32; 2],
    pub(super) size: [f32; 2],
}

struct EncoderLayer {
    attention: Attention,
    attention_norm: Norm,
    mlp: FeedForward,
}

struct DecoderLayer {
    attention: Attention,
    attention_norm: Norm,
    cross: Attention,
    cross_norm: Norm,
    mlp: FeedForward,
}

/// The feed-forward half with the normalization after it.
struct FeedForward {
    up: Linear,
    down: Linear,
    norm: Norm,
    activation: Activation,
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

/// What every layer is made with.
struct Sizes {
    hidden: usize,
    activation: Activation,
}

impl Detr {
    /// Values that a picture of that size holds at most: in the convolutions, or in a layer over their last map, a 32nd as
    /// high and wide.
    pub(super) fn peak(&self, height: usize, width: usize) -> usize {
        let rows = height.div_ceil(32) * width.div_ceil(32);
        let inner = self.encoder.first().map_or(0, |layer| layer.mlp.up.outputs());
        // Rows and places, both added, queries, keys and values and what they saw; or the inner values.
        let layers = rows * (self.backbone.channels() + 4 * self.hidden + (4 * self.hidden).max(inner));
        self.backbone.peak(height, width).max(layers)
    }

    pub(super) fn load(tensors: &mut Tensors, config: &Value, labels: usize) -> Result<Detr, String> {
        let hidden = whole(config, "d_model", Some(256), 1 << 12)?;
        let activation = activation(config.get("activation_function").and_then(Value::as_str).unwrap_or("relu"))?;
        let sizes = Sizes { hidden, activation };
        let side = |side: &str| -> Result<[usize; 3], String> {
            let read = |key: &str, default, most| whole(config, &format!("{side}_{key}"), Some(default), most);
            let heads = read("attention_heads", 8, 256)?;
            if !hidden.is_multiple_of(heads) {
                return Err(format!("d_model {hidden} is no multiple of {side}_attention_heads {heads}"));
            }
            Ok([read("layers", 6, 64)?, heads, read("ffn_dim", 2048, 1 << 16)?])
        };
        match config.get("position_embedding_type").and_then(Value::as_str) {
            None | Some("sine") if hidden.is_multiple_of(4) => {}
            other => {
                return Err(format!("position_embedding_type {other:?} of {hidden}; sine of a multiple of 4 is known"));
            }
        }
        if config.get("dilation").and_then(Value::as_bool) == Some(true) {
            return Err("dilation is true; this host has no dilated convolutions".to_owned());
        }
        let timm = tensors.shape(&format!("{BACKBONE}conv1.weight")).is_some();
        let naming = if timm { Naming::Timm } else { Naming::Transformers };
        let strides = Strides::parse(config.get("backbone_config").unwrap_or(&Value::Null))?;
        let backbone = Backbone::load(tensors, BACKBONE, naming, strides)?;
        let channels = backbone.channels();
        let weight = tensors.read("model.input_projection.weight", &[hidden, channels, 1, 1])?;
        let projection = Conv::new(&weight, tensors.read("model.input_projection.bias", &[hidden])?, channels, 1, 1, 0);
        let [layers, heads, inner] = side("encoder")?;
        let encoder =
            |index| EncoderLayer::load(tensors, &format!("model.encoder.layers.{index}"), &sizes, heads, inner);
        let encoder = (0..layers).map(encoder).collect::<Result<_, _>>()?;
        let [layers, heads, inner] = side("decoder")?;
        let decoder =
            |index| DecoderLayer::load(tensors, &format!("model.decoder.layers.{index}"), &sizes, heads, inner);
        let decoder = (0..layers).map(decoder).collect::<Result<_, _>>()?;
        let count = whole(config, "num_queries", Some(100), 4096)?;
        let queries = tensors.read("model.query_position_embeddings.weight", &[count, hidden])?;
        let mut boxes =
            |index: usize, outputs| Linear::load(tensors, &format!("bbox_predictor.layers.{index}"), outputs, hidden);
        let boxes = [boxes(0, hidden)?, boxes(1, hidden)?, boxes(2, 4)?];
        Ok(Detr {
            hidden,
            backbone,
            projection,
            encoder,
            decoder,
            norm: Norm::load(tensors, "model.decoder.layernorm", hidden, EPSILON)?,
            queries,
            // The last class is "nothing".
            classes: Linear::load(tensors, "class_labels_classifier", labels + 1, hidden)?,
            boxes,
        })
    }

    /// What each query found, in their order.
    ///
    /// # Errors
    /// 3046 for broken weights, and what `check` says between layers.
    pub(super) fn detect(
        &self,
        compute: &Compute,
        picture: &Map,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<Found>, AiError> {
        let seen = self.backbone.forward(compute, picture, check)?;
        let seen = self.projection.apply(compute.isa, &compute.pool, &seen, false);
        let places = places(seen.height, seen.width, self.hidden);
        let mut memory = seen.data;
        for layer in &self.encoder {
            check()?;
            layer.forward(compute, &mut memory, &places);
        }
        let placed = sum(&memory, &places);
        let mut states = vec![0.0; self.queries.len()];
        for layer in &self.decoder {
            check()?;
            layer.forward(compute, &mut states, &self.queries, &memory, &placed);
        }
        self.norm.apply(compute, &mut states);
        let logits = self.classes.apply(compute, &states);
        let [first, second, third] = &self.boxes;
        let mut inner = first.apply(compute, &states);
        compute.activate(&mut inner, self.hidden, Activation::Relu);
        let mut inner = second.apply(compute, &inner);
        compute.activate(&mut inner, self.hidden, Activation::Relu);
        let boxes = third.apply(compute, &inner);
        finite(&logits)?;
        finite(&boxes)?;
        let sigmoid = |value: f32| 1.0 / (1.0 + (-value).exp());
        let one = |(logits, place): (&[f32], &[f32; 4])| {
            let scores = softmax(logits);
            let classes = scores.iter().take(logits.len() - 1).enumerate();
            let (class, score) =
                classes.fold((0, 0.0), |best, (class, score)| if *score > best.1 { (class, *score) } else { best });
            let [x, y, width, height] = place.map(sigmoid);
            Found { class, score, centre: [x, y], size: [width, height] }
        };
        Ok(logits.chunks_exact(self.classes.outputs()).zip(boxes.as_chunks::<4>().0).map(one).collect())
    }
}

/// Sines and cosines of the row and the column of every place, half of a vector each.
fn places(height: usize, width: usize, hidden: usize) -> Vec<f32> {
    let half = hidden / 2;
    let angle = |at: usize, of: usize| (at + 1) as f32 / (of as f32 + 1e-6) * std::f32::consts::TAU;
    let frequency = |index: usize| 10_000f32.powf((2 * (index / 2)) as f32 / half as f32);
    let mut values = Vec::with_capacity(height * width * hidden);
    for row in 0..height {
        for column in 0..width {
            for angle in [angle(row, height), angle(column, width)] {
                values.extend((0..half).map(|index| {
                    let turned = angle / frequency(index);
                    if index % 2 == 0 { turned.sin() } else { turned.cos() }
                }));
            }
        }
    }
    values
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

impl EncoderLayer {
    fn load(tensors: &mut Tensors, root: &str, sizes: &Sizes, heads: usize, inner: usize) -> Result<Self, String> {
        Ok(Self {
            attention: Attention::load(tensors, &format!("{root}.self_attn"), sizes.hidden, heads)?,
            attention_norm: Norm::load(tensors, &format!("{root}.self_attn_layer_norm"), sizes.hidden, EPSILON)?,
            mlp: FeedForward::load(tensors, root, sizes, inner)?,
        })
    }

    fn forward(&self, compute: &Compute, states: &mut [f32], places: &[f32]) {
        let placed = sum(states, places);
        let answer = self.attention.apply(compute, &placed, &placed, states);
        self.attention_norm.add_and_apply(compute, states, &answer);
        self.mlp.apply(compute, states);
    }
}

impl DecoderLayer {
    fn load(tensors: &mut Tensors, root: &str, sizes: &Sizes, heads: usize, inner: usize) -> Result<Self, String> {
        Ok(Self {
            attention: Attention::load(tensors, &format!("{root}.self_attn"), sizes.hidden, heads)?,
            attention_norm: Norm::load(tensors, &format!("{root}.self_attn_layer_norm"), sizes.hidden, EPSILON)?,
            cross: Attention::load(tensors, &format!("{root}.encoder_attn"), sizes.hidden, heads)?,
            cross_norm: Norm::load(tensors, &format!("{root}.encoder_attn_layer_norm"), sizes.hidden, EPSILON)?,
            mlp: FeedForward::load(tensors, root, sizes, inner)?,
        })
    }

    fn forward(&self, compute: &Compute, states: &mut [f32], queries: &[f32], memory: &[f32], placed: &[f32]) {
        let asked = sum(states, queries);
        let answer = self.attention.apply(compute, &asked, &asked, states);
        self.attention_norm.add_and_apply(compute, states, &answer);
        let answer = self.cross.apply(compute, &sum(states, queries), placed, memory);
        self.cross_norm.add_and_apply(compute, states, &answer);
        self.mlp.apply(compute, states);
    }
}

impl FeedForward {
    fn load(tensors: &mut Tensors, root: &str, sizes: &Sizes, inner: usize) -> Result<Self, String> {
        Ok(Self {
            up: Linear::load(tensors, &format!("{root}.fc1"), inner, sizes.hidden)?,
            down: Linear::load(tensors, &format!("{root}.fc2"), sizes.hidden, inner)?,
            norm: Norm::load(tensors, &format!("{root}.final_layer_norm"), sizes.hidden, EPSILON)?,
            activation: sizes.activation,
        })
    }

    fn apply(&self, compute: &Compute, states: &mut [f32]) {
        let mut inner = self.up.apply(compute, states);
        compute.activate(&mut inner, self.up.outputs(), self.activation);
        let more = self.down.apply(compute, &inner);
        self.norm.add_and_apply(compute, states, &more);
    }
}

impl Attention {
    fn load(tensors: &mut Tensors, root: &str, hidden: usize, heads: usize) -> Result<Self, String> {
        let mut part = |name: &str| Linear::load(tensors, &format!("{root}.{name}_proj"), hidden, hidden);
        Ok(Self { query: part("q")?, key: part("k")?, value: part("v")?, out: part("out")?, heads })
    }

    fn apply(&self, compute: &Compute, queries: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
        let hidden = self.out.outputs();
        let queries = self.query.apply(compute, queries);
        let (keys, values) = (self.key.apply(compute, keys), self.value.apply(compute, values));
        self.out.apply(compute, &attend_dense(compute, &queries, &keys, &values, hidden, self.heads))
    }
}
