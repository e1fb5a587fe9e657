//! The weights of a description, out of a checkpoint's tensors and in the float type that they have there.

use std::collections::HashMap;
use std::sync::Arc;

use host_kernels::floats::FloatMatrix;

use super::description::{
    AttentionAt, Description, FeedForwardAt, LayerAt, LinearAt, NormAt, NormKind, Positions, StackAt,
};
use crate::tensors::Tensors;

pub(super) struct Linear {
    pub(super) matrix: FloatMatrix,
    /// Empty where there is none.
    pub(super) bias: Vec<f32>,
}

pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    /// Empty for those of root mean squares.
    pub(super) bias: Vec<f32>,
}

pub(super) struct Attention {
    pub(super) norm: Norm,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
}

pub(super) struct FeedForward {
    pub(super) norm: Norm,
    pub(super) gate: Option<Linear>,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

pub(super) struct Layer {
    pub(super) attention: Attention,
    pub(super) cross: Option<Attention>,
    pub(super) feed_forward: FeedForward,
}

pub(super) struct Stack {
    pub(super) embedding: Arc<FloatMatrix>,
    pub(super) heads: usize,
    /// Rows of learned positions, or of a bias for each head; empty where places are told otherwise.
    pub(super) positions: Vec<f32>,
    pub(super) embedding_norm: Option<Norm>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Option<Norm>,
}

pub(super) struct Weights {
    pub(super) encoder: Stack,
    pub(super) decoder: Stack,
    pub(super) head: Arc<FloatMatrix>,
    /// Empty where nothing is added to logits.
    pub(super) logit_bias: Vec<f32>,
}

/// What reads, and the matrices that serve several purposes.
struct Reader<'a> {
    tensors: &'a mut Tensors,
    description: &'a Description,
    tables: HashMap<String, Arc<FloatMatrix>>,
}

impl Weights {
    /// The error names tensor and file.
    pub(super) fn read(description: &Description, tensors: &mut Tensors) -> Result<Self, String> {
        let mut reader = Reader { tensors, description, tables: HashMap::new() };
        let encoder = reader.stack(&description.encoder)?;
        let decoder = reader.stack(&description.decoder)?;
        let head = reader.table(&description.head, description.vocabulary())?;
        let vocabulary = description.vocabulary();
        let logit_bias = match &description.logit_bias {
            // Checkpoints that were saved without it have none to add.
            Some(name) if reader.tensors.shape(name).is_some() => reader.tensors.read(name, &[1, vocabulary])?,
            _ => Vec::new(),
        };
        Ok(Self { encoder, decoder, head, logit_bias })
    }
}

impl Reader<'_> {
    /// The first of `names` that there is, as a table of the width of the stream.
    fn table(&mut self, names: &[String], rows: usize) -> Result<Arc<FloatMatrix>, String> {
        let found = names.iter().find(|name| self.tensors.shape(name).is_some()).or(names.first());
        let name = found.ok_or("a table without a name")?;
        if let Some(table) = self.tables.get(name).filter(|table| table.rows() == rows) {
            return Ok(table.clone());
        }
        let table = Arc::new(self.matrix(name, rows, self.description.width)?);
        self.tables.insert(name.clone(), table.clone());
        Ok(table)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<FloatMatrix, String> {
        let (format, bytes) = self.tensors.raw(name, &[rows, columns])?;
        FloatMatrix::repack(format, rows, columns, &bytes).map_err(|error| format!("tensor {name}: {error}"))
    }

    fn linear(&mut self, at: &LinearAt) -> Result<Linear, String> {
        let matrix = self.matrix(&format!("{}.weight", at.name), at.outputs, at.inputs)?;
        let bias = if at.biased { self.tensors.read(&format!("{}.bias", at.name), &[at.outputs])? } else { Vec::new() };
        Ok(Linear { matrix, bias })
    }

    fn norm(&mut self, at: &NormAt) -> Result<Norm, String> {
        let width = self.description.width;
        let weight = self.tensors.read(&format!("{}.weight", at.name), &[width])?;
        let bias = match self.description.norm {
            NormKind::Layer => self.tensors.read(&format!("{}.bias", at.name), &[width])?,
            NormKind::Rms => Vec::new(),
        };
        Ok(Norm { weight, bias })
    }

    fn attention(&mut self, at: &AttentionAt) -> Result<Attention, String> {
        Ok(Attention {
            norm: self.norm(&at.norm)?,
            query: self.linear(&at.query)?,
            key: self.linear(&at.key)?,
            value: self.linear(&at.value)?,
            output: self.linear(&at.output)?,
        })
    }

    fn feed_forward(&mut self, at: &FeedForwardAt) -> Result<FeedForward, String> {
        Ok(FeedForward {
            norm: self.norm(&at.norm)?,
            gate: at.gate.as_ref().map(|gate| self.linear(gate)).transpose()?,
            up: self.linear(&at.up)?,
            down: self.linear(&at.down)?,
        })
    }

    fn layer(&mut self, at: &LayerAt) -> Result<Layer, String> {
        Ok(Layer {
            attention: self.attention(&at.attention)?,
            cross: at.cross.as_ref().map(|cross| self.attention(cross)).transpose()?,
            feed_forward: self.feed_forward(&at.feed_forward)?,
        })
    }

    fn stack(&mut self, at: &StackAt) -> Result<Stack, String> {
        let shape = match self.description.positions {
            Positions::Learned { first } => [self.description.positions_limit + first, self.description.width],
            Positions::Distances { buckets, .. } => [buckets, at.heads],
            Positions::Sinusoidal { .. } => [0, 0],
        };
        Ok(Stack {
            embedding: self.table(&at.embedding, at.vocabulary)?,
            heads: at.heads,
            positions: at.positions.as_ref().map_or(Ok(Vec::new()), |name| self.tensors.read(name, &shape))?,
            embedding_norm: at.embedding_norm.as_ref().map(|norm| self.norm(norm)).transpose()?,
            layers: at.layers.iter().map(|layer| self.layer(layer)).collect::<Result<_, _>>()?,
            norm: at.norm.as_ref().map(|norm| self.norm(norm)).transpose()?,
        })
    }
}
