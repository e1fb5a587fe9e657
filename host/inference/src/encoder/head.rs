//! What makes scores of an encoder's states: of a whole text, or of each token.

use host_kernels::encoder::{Activation, activate};
use host_kernels::isa::Isa;

use super::description::{Description, HeadKind, Part};
use super::parts::{Linear, Norm};
use crate::tensors::Tensors;

/// What a head scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scored {
    /// A text or a pair.
    Text,
    /// Each token.
    Tokens,
}

/// A head's weights.
pub(super) struct Head {
    dense: Option<(Linear, Nonlinearity)>,
    norm: Option<Norm>,
    out: Linear,
    /// Whether a text's mean is scored rather than its first token.
    mean: bool,
}

#[derive(Debug, Clone, Copy)]
enum Nonlinearity {
    Tanh,
    Other(Activation),
}

impl Head {
    /// Reads the head that gives `labels` scores. `prefix` is what stands before the encoder's own names.
    pub(super) fn load(
        tensors: Tensors,
        prefix: &str,
        description: &Description,
        scored: Scored,
        labels: usize,
    ) -> Result<Head, String> {
        let (hidden, epsilon) = (description.hidden, description.epsilon);
        let mut tensors = tensors.below("");
        let mut linear = |name: &str, bias, outputs| Linear::load(&mut tensors, name, bias, outputs, hidden);
        let (dense, out) = match (description.head, scored) {
            (HeadKind::Prediction { bias, activation, .. }, _) => {
                let dense = linear("head.dense", bias, hidden)?;
                (Some((dense, Nonlinearity::Other(activation))), "classifier")
            }
            (_, Scored::Tokens) => (None, "classifier"),
            (HeadKind::Pooler, Scored::Text) => {
                let dense = linear(&format!("{prefix}pooler.dense"), true, hidden)?;
                (Some((dense, Nonlinearity::Tanh)), "classifier")
            }
            (HeadKind::Classifier, Scored::Text) => {
                (Some((linear("classifier.dense", true, hidden)?, Nonlinearity::Tanh)), "classifier.out_proj")
            }
            (HeadKind::PreClassifier, Scored::Text) => {
                let dense = linear("pre_classifier", true, hidden)?;
                (Some((dense, Nonlinearity::Other(Activation::Relu))), "classifier")
            }
        };
        let out = linear(out, true, labels)?;
        let (norm, mean) = match description.head {
            HeadKind::Prediction { norm_bias, mean, .. } => {
                let part = Part::new("head.norm", norm_bias);
                (Some(Norm::load(&mut tensors, part.name, part, hidden, epsilon)?), mean)
            }
            HeadKind::Pooler | HeadKind::Classifier | HeadKind::PreClassifier => (None, false),
        };
        Ok(Head { dense, norm, out, mean })
    }

    /// The scores of a text with these states.
    pub(super) fn text(&self, states: &[f32]) -> Vec<f32> {
        let hidden = self.out.weight.inputs();
        let first = states.get(..hidden).unwrap_or_default();
        if !self.mean {
            return self.rows(first);
        }
        let mut mean = vec![0.0; first.len()];
        let count = (states.len() / hidden) as f32;
        for row in states.chunks_exact(hidden) {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / count);
        }
        self.rows(&mean)
    }

    /// The scores of each row, one behind the other.
    pub(super) fn rows(&self, states: &[f32]) -> Vec<f32> {
        let mut inner = Vec::new();
        let states = match &self.dense {
            None => states,
            Some((dense, nonlinearity)) => {
                dense.apply(states, &mut inner);
                match nonlinearity {
                    Nonlinearity::Tanh => inner.iter_mut().for_each(|value| *value = value.tanh()),
                    Nonlinearity::Other(activation) => activate(Isa::best(), &mut inner, *activation),
                }
                if let Some(norm) = &self.norm {
                    norm.apply(&mut inner, &[]);
                }
                &inner
            }
        };
        let mut scores = Vec::new();
        self.out.apply(states, &mut scores);
        scores
    }
}
