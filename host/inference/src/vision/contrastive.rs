//! Pictures and texts in one space: CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023).
//!
//! Two towers give vectors of length 1 whose product says how well a text describes a picture. CLIP's texts see only
//! what is before them and are read at their end; SigLIP's are padded to one length, see the padding too, and are read at
//! the last place, as they were trained. Both files may leave out what their classes have as defaults.

use std::path::Path;

use host_kernels::vision::{Activation, Map};
use serde_json::Value;

use super::labels;
use super::layers::{
    Compute, Layer, Linear, Mlp, Names, Norm, Patches, Table, Tower, add, attend_dense, finite, whole,
};
use super::tokens::Texts;
use crate::AiError;
use crate::tensors::Tensors;

const NAMES: Names = Names {
    before: "layer_norm1",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.out_proj",
    after: "layer_norm2",
    up: "mlp.fc1",
    down: "mlp.fc2",
};

/// The two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Clip,
    Siglip,
}

impl Family {
    pub(super) fn parse(config: &Value) -> Result<Family, String> {
        match config.get("model_type").and_then(Value::as_str) {
            Some("clip" | "clip_vision_model") => Ok(Self::Clip),
            Some("siglip" | "siglip_vision_model") => Ok(Self::Siglip),
            other => Err(format!("model_type is {other:?}; clip and siglip are known")),
        }
    }

    fn default(self, text: bool) -> Tower {
        let (hidden, heads) = if text && self == Self::Clip { (512, 8) } else { (768, 12) };
        let (activation, epsilon) = match self {
            Self::Clip => (Activation::QuickGelu, 1e-5),
            Self::Siglip => (Activation::GeluTanh, 1e-6),
        };
        Tower { hidden, intermediate: 4 * hidden, layers: 12, heads, activation, epsilon }
    }
}

/// Both towers.
pub(super) struct Contrastive {
    family: Family,
    vision: Vision,
    text: Text,
    /// The logarithm's power: what a product of two vectors is multiplied with.
    scale: f32,
    bias: f32,
}

struct Vision {
    eyes: Eyes,
    after: Norm,
    head: VisionHead,
}

/// A tower's layers over a picture, with what comes before them.
pub(super) struct Eyes {
    pub(super) tower: Tower,
    pub(super) patches: Patches,
    class: Vec<f32>,
    positions: Vec<f32>,
    before: Option<Norm>,
    layers: Vec<Layer>,
}

enum VisionHead {
    /// The class token's state, projected.
    Class(Linear),
    /// A learned query that attends to all states.
    Attention(Box<Pooler>),
}

struct Pooler {
    /// The query, projected already.
    query: Vec<f32>,
    keys: Linear,
    values: Linear,
    out: Linear,
    norm: Norm,
    mlp: Mlp,
}

struct Text {
    tower: Tower,
    words: Table,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    tokens: Texts,
    length: usize,
    /// What ends a text, or what pads it.
    special: u32,
}

impl Contrastive {
    /// Values that a picture holds at most.
    pub(super) fn picture_peak(&self) -> usize {
        self.vision.eyes.peak()
    }

    /// Values that so many texts hold at most, which are read one by one.
    pub(super) fn text_peak(&self, texts: usize) -> usize {
        self.text.tower.peak(self.text.length) + texts * self.width()
    }

    pub(super) fn load(
        folder: &Path,
        tensors: &mut Tensors,
        config: &Value,
        given: Option<(usize, usize)>,
    ) -> Result<Contrastive, String> {
        let family = Family::parse(config)?;
        let part = |key: &str| config.get(key).cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let width = match family {
            Family::Clip => whole(config, "projection_dim", Some(512), 1 << 13)?,
            Family::Siglip => 0,
        };
        let vision = Vision::load(tensors, family, &part("vision_config"), width)?;
        vision.eyes.patches.check(given)?;
        let text = Text::load(folder, tensors, family, &part("text_config"), width)?;
        if vision.width() != text.head.outputs() {
            return Err(format!("pictures have vectors of {}, texts of {}", vision.width(), text.head.outputs()));
        }
        let shape: &[usize] = if family == Family::Clip { &[] } else { &[1] };
        let scale = tensors.read("logit_scale", shape)?[0].exp();
        let bias = if family == Family::Clip { 0.0 } else { tensors.read("logit_bias", shape)?[0] };
        Ok(Contrastive { family, vision, text, scale, bias })
    }

    /// The length of a vector.
    pub(super) fn width(&self) -> usize {
        self.text.head.outputs()
    }

    /// The picture's vector.
    ///
    /// # Errors
    /// 3046 for broken weights, and what `check` says between layers.
    pub(super) fn picture(
        &self,
        compute: &Compute,
        picture: &Map,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<f32>, AiError> {
        unit(self.vision.forward(compute, picture, check)?)
    }

    /// A text's vector.
    ///
    /// # Errors
    /// As [`Self::picture`], and 5006 that names `property`.
    pub(super) fn text(
        &self,
        compute: &Compute,
        text: &str,
        property: &str,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<f32>, AiError> {
        let tokens = self.text.tokens.encode(text, property)?;
        unit(self.text.forward(compute, tokens, self.family, check)?)
    }

    /// How well each text describes the picture: out of all of them (CLIP) or by itself (SigLIP).
    pub(super) fn scores(&self, picture: &[f32], texts: &[Vec<f32>]) -> Vec<f32> {
        let logits: Vec<f32> = texts.iter().map(|text| dot(picture, text) * self.scale + self.bias).collect();
        match self.family {
            Family::Clip => labels::softmax(&logits),
            Family::Siglip => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        }
    }
}

impl Eyes {
    /// Reads what is under `root` but for what comes after the layers.
    pub(super) fn load(tensors: &mut Tensors, root: &str, family: Family, config: &Value) -> Result<Eyes, String> {
        let tower = Tower::parse(config, family.default(false)).map_err(|why| format!("vision_config: {why}"))?;
        let Tower { hidden, epsilon, .. } = tower;
        let patch = if family == Family::Clip { 32 } else { 16 };
        let name = format!("{root}.embeddings.patch_embedding");
        let patches = Patches::load(tensors, &name, config, hidden, (224, patch))?;
        let class = match family {
            Family::Clip => tensors.read(&format!("{root}.embeddings.class_embedding"), &[hidden])?,
            Family::Siglip => Vec::new(),
        };
        let rows = patches.count + class.len() / hidden;
        let positions = tensors.read(&format!("{root}.embeddings.position_embedding.weight"), &[rows, hidden])?;
        // Spelt so in every published file.
        let name = format!("{root}.pre_layrnorm");
        let before = match family {
            Family::Clip => Some(Norm::load(tensors, &name, hidden, epsilon)?),
            Family::Siglip => None,
        };
        let layers = Layer::all(tensors, &format!("{root}.encoder.layers"), &NAMES, &tower)?;
        Ok(Eyes { tower, patches, class, positions, before, layers })
    }

    /// Rows that come before those of the patches.
    pub(super) fn leading(&self) -> usize {
        self.class.len() / self.tower.hidden
    }

    /// Rows of a picture.
    pub(super) fn rows(&self) -> usize {
        self.positions.len() / self.tower.hidden
    }

    /// Values that [`Self::forward`] holds at most.
    pub(super) fn peak(&self) -> usize {
        self.tower.peak(self.rows())
    }

    /// The states after all layers but the last `skip`.
    pub(super) fn forward(
        &self,
        compute: &Compute,
        picture: &Map,
        skip: usize,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<f32>, AiError> {
        let mut states = self.class.clone();
        states.append(&mut self.patches.apply(compute, picture));
        add(&mut states, &self.positions);
        if let Some(norm) = &self.before {
            norm.apply(compute, &mut states);
        }
        for layer in self.layers.iter().take(self.layers.len().saturating_sub(skip)) {
            check()?;
            layer.forward(compute, &self.tower, &mut states, false);
        }
        Ok(states)
    }
}

impl Vision {
    fn load(tensors: &mut Tensors, family: Family, config: &Value, width: usize) -> Result<Vision, String> {
        let eyes = Eyes::load(tensors, "vision_model", family, config)?;
        let Tower { hidden, epsilon, .. } = eyes.tower;
        let after = Norm::load(tensors, "vision_model.post_layernorm", hidden, epsilon)?;
        let head = match family {
            Family::Clip => VisionHead::Class(Linear::load(tensors, "visual_projection", width, hidden)?),
            Family::Siglip => VisionHead::Attention(Box::new(Pooler::load(tensors, "vision_model.head", &eyes.tower)?)),
        };
        Ok(Vision { eyes, after, head })
    }

    fn width(&self) -> usize {
        match &self.head {
            VisionHead::Class(head) => head.outputs(),
            VisionHead::Attention(_) => self.eyes.tower.hidden,
        }
    }

    fn forward(
        &self,
        compute: &Compute,
        picture: &Map,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<f32>, AiError> {
        let mut states = self.eyes.forward(compute, picture, 0, check)?;
        Ok(match &self.head {
            VisionHead::Class(head) => {
                states.truncate(self.eyes.tower.hidden);
                self.after.apply(compute, &mut states);
                head.apply(compute, &states)
            }
            VisionHead::Attention(pooler) => {
                self.after.apply(compute, &mut states);
                pooler.apply(compute, &states, &self.eyes.tower)
            }
        })
    }
}

impl Pooler {
    fn load(tensors: &mut Tensors, root: &str, tower: &Tower) -> Result<Pooler, String> {
        let hidden = tower.hidden;
        let name = |part: &str| format!("{root}.{part}");
        let probe = tensors.read(&name("probe"), &[1, 1, hidden])?;
        let weight = tensors.read(&name("attention.in_proj_weight"), &[3 * hidden, hidden])?;
        let bias = tensors.read(&name("attention.in_proj_bias"), &[3 * hidden])?;
        let mut parts = weight
            .chunks_exact(hidden * hidden)
            .zip(bias.chunks_exact(hidden))
            .map(|(weight, bias)| Linear::new(weight, bias.to_vec(), hidden));
        let (Some(Ok(query)), Some(Ok(keys)), Some(Ok(values))) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("{root}.attention.in_proj_weight has no three parts"));
        };
        let one = Compute::new(std::num::NonZeroUsize::MIN)?;
        Ok(Pooler {
            query: query.apply(&one, &probe),
            keys,
            values,
            out: Linear::load(tensors, &name("attention.out_proj"), hidden, hidden)?,
            norm: Norm::load(tensors, &name("layernorm"), hidden, tower.epsilon)?,
            mlp: Mlp::load(tensors, &name("mlp.fc1"), &name("mlp.fc2"), tower)?,
        })
    }

    fn apply(&self, compute: &Compute, states: &[f32], tower: &Tower) -> Vec<f32> {
        let (keys, values) = (self.keys.apply(compute, states), self.values.apply(compute, states));
        let answer = attend_dense(compute, &self.query, &keys, &values, tower.hidden, tower.heads);
        let mut state = self.out.apply(compute, &answer);
        let more = self.mlp.apply(compute, &self.norm.of(compute, &state));
        add(&mut state, &more);
        state
    }
}

impl Text {
    fn load(
        folder: &Path,
        tensors: &mut Tensors,
        family: Family,
        config: &Value,
        width: usize,
    ) -> Result<Text, String> {
        let named = |why: String| format!("text_config: {why}");
        let tower = Tower::parse(config, family.default(true)).map_err(named)?;
        let hidden = tower.hidden;
        let (vocabulary, length) = if family == Family::Clip { (49_408, 77) } else { (32_000, 64) };
        let vocabulary = whole(config, "vocab_size", Some(vocabulary), 1 << 21).map_err(named)?;
        let length = whole(config, "max_position_embeddings", Some(length), 1 << 14).map_err(named)?;
        let root = "text_model";
        let words = Table::load(tensors, &format!("{root}.embeddings.token_embedding.weight"), vocabulary, hidden)?;
        let positions = tensors.read(&format!("{root}.embeddings.position_embedding.weight"), &[length, hidden])?;
        let layers = Layer::all(tensors, &format!("{root}.encoder.layers"), &NAMES, &tower)?;
        let norm = Norm::load(tensors, &format!("{root}.final_layer_norm"), hidden, tower.epsilon)?;
        let head = match family {
            Family::Clip => Linear::load(tensors, "text_projection", width, hidden)?,
            Family::Siglip => {
                let width = whole(config, "projection_size", Some(hidden), 1 << 13).map_err(named)?;
                Linear::load(tensors, &format!("{root}.head"), width, hidden)?
            }
        };
        let tokens = Texts::load(folder, length, vocabulary)?;
        let id = |key: &str| config.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let special = match family {
            Family::Clip => id("eos_token_id").unwrap_or(49_407),
            Family::Siglip => tokens.padding(folder).or_else(|| id("pad_token_id")).unwrap_or(1),
        };
        if family == Family::Siglip && special as usize >= vocabulary {
            return Err(named(format!("the padding token {special} is not below vocab_size {vocabulary}")));
        }
        Ok(Text { tower, words, positions, layers, norm, head, tokens, length, special })
    }

    fn forward(
        &self,
        compute: &Compute,
        mut tokens: Vec<u32>,
        family: Family,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<f32>, AiError> {
        let hidden = self.tower.hidden;
        if family == Family::Siglip {
            tokens.resize(self.length, self.special);
        }
        let place = match family {
            // Files that say 2 are older than the key's meaning: the end is then the greatest id.
            Family::Clip if self.special == 2 => {
                let most = tokens.iter().max();
                tokens.iter().position(|token| Some(token) == most)
            }
            Family::Clip => tokens.iter().position(|token| *token == self.special),
            Family::Siglip => tokens.len().checked_sub(1),
        };
        let mut states = self.words.rows(&tokens);
        add(&mut states, &self.positions);
        for layer in &self.layers {
            check()?;
            layer.forward(compute, &self.tower, &mut states, family == Family::Clip);
        }
        let place = place.unwrap_or(0);
        let state = states.get(place * hidden..(place + 1) * hidden).unwrap_or_default();
        Ok(self.head.apply(compute, &self.norm.of(compute, state)))
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

/// The vector at length 1.
fn unit(mut vector: Vec<f32>) -> Result<Vec<f32>, AiError> {
    let length = f64::from(dot(&vector, &vector)).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    finite(&vector)?;
    Ok(vector)
}
