//! Vision transformers (Dosovitskiy et al. 2020) as classifiers, with the distilled kind (DeiT, Touvron et al. 2020).

use host_kernels::vision::{Activation, Map};
use serde_json::Value;

use super::layers::{Compute, Layer, Linear, Names, Norm, Patches, Tower, add};
use crate::tensors::Tensors;

const NAMES: Names = Names {
    before: "layernorm_before",
    qkv: &["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    out: "attention.output.dense",
    after: "layernorm_after",
    up: "intermediate.dense",
    down: "output.dense",
};

const DEFAULT: Tower =
    Tower { hidden: 768, intermediate: 3072, layers: 12, heads: 12, activation: Activation::Gelu, epsilon: 1e-12 };

/// `ViTForImageClassification`, `DeiTForImageClassification`, `DeiTForImageClassificationWithTeacher`.
pub(super) struct Vit {
    tower: Tower,
    patches: Patches,
    /// The rows before the patches: of the class and, in DeiT, of the distillation.
    tokens: Vec<f32>,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
    /// One for each of the first tokens; what they say is averaged.
    heads: Vec<Linear>,
}

impl Vit {
    pub(super) fn load(
        tensors: &mut Tensors,
        config: &Value,
        given: Option<(usize, usize)>,
        labels: usize,
    ) -> Result<Vit, String> {
        let tower = Tower::parse(config, DEFAULT)?;
        let hidden = tower.hidden;
        let distilled = config.get("model_type").and_then(Value::as_str) == Some("deit");
        let root = if distilled { "deit" } else { "vit" };
        let name = |part: &str| format!("{root}.{part}");
        let patches =
            Patches::load(tensors, &name("embeddings.patch_embeddings.projection"), config, hidden, (224, 16))?;
        patches.check(given)?;
        let mut tokens = tensors.read(&name("embeddings.cls_token"), &[1, 1, hidden])?;
        if distilled {
            tokens.append(&mut tensors.read(&name("embeddings.distillation_token"), &[1, 1, hidden])?);
        }
        let rows = patches.count + tokens.len() / hidden;
        let positions = tensors.read(&name("embeddings.position_embeddings"), &[1, rows, hidden])?;
        let layers = Layer::all(tensors, &name("encoder.layer"), &NAMES, &tower)?;
        let norm = Norm::load(tensors, &name("layernorm"), hidden, tower.epsilon)?;
        let teacher = tensors.shape("distillation_classifier.weight").is_some();
        let names: &[&str] = if teacher { &["cls_classifier", "distillation_classifier"] } else { &["classifier"] };
        let heads = names.iter().map(|name| Linear::load(tensors, name, labels, hidden)).collect::<Result<_, _>>()?;
        Ok(Vit { tower, patches, tokens, positions, layers, norm, heads })
    }

    /// Values that a picture holds at most.
    pub(super) fn peak(&self) -> usize {
        self.tower.peak(self.positions.len() / self.tower.hidden)
    }

    pub(super) fn logits<E>(
        &self,
        compute: &Compute,
        picture: &Map,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        let hidden = self.tower.hidden;
        let mut states = self.tokens.clone();
        states.append(&mut self.patches.apply(compute, picture));
        add(&mut states, &self.positions);
        for layer in &self.layers {
            check()?;
            layer.forward(compute, &self.tower, &mut states, false);
        }
        states.truncate(hidden * self.heads.len());
        self.norm.apply(compute, &mut states);
        let mut logits = Vec::new();
        for (head, state) in self.heads.iter().zip(states.chunks_exact(hidden)) {
            let more = head.apply(compute, state);
            if logits.is_empty() { logits = more } else { add(&mut logits, &more) }
        }
        logits.iter_mut().for_each(|value| *value /= self.heads.len() as f32);
        Ok(logits)
    }
}
