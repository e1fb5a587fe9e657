//! What an encoder is, as data: sizes, where the norms stand, how positions get in, which activations and biases there
//! are, and under which names a checkpoint keeps its tensors.
//!
//! One forward pass runs every description. A further architecture is a function in [`super::families`] from its
//! `config.json` to a [`Description`], as long as it is made of the same parts.

use host_kernels::encoder::Activation;
use host_kernels::rope::Rope;

/// An encoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Description {
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) intermediate: usize,
    /// Tokens of the longest text.
    pub(super) context: usize,
    /// Kinds of segments that have a vector of their own; none are added where it is 0.
    pub(super) types: usize,
    pub(super) epsilon: f32,
    pub(super) positions: Positions,
    pub(super) norms: Norms,
    pub(super) activation: Activation,
    /// The rotations that layers refer to.
    pub(super) ropes: Vec<Rope>,
    pub(super) layers: Vec<LayerKind>,
    pub(super) names: Names,
    pub(super) head: HeadKind,
}

impl Description {
    /// Values of one attention head.
    pub(super) fn head_width(&self) -> usize {
        self.hidden / self.heads
    }
}

/// How a token's place gets into its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// A vector for each place is added to the word's; the first place has the row `first` of `rows`.
    Learned {
        /// Rows of the table.
        rows: usize,
        /// The row of a text's first token.
        first: usize,
    },
    /// Queries and keys are rotated, in each layer as it says.
    Rotary,
    /// Scores fall with the distance, by a slope for each head (Press et al. 2022), in both directions.
    Alibi,
}

/// Where a layer's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// Behind each sum, as in BERT.
    Post,
    /// Before each part, and one at the end. The first layer's attention takes the embeddings as they are, which are
    /// normalized already.
    Pre,
}

/// What layers differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerKind {
    /// The greatest distance at which a token is attended to.
    pub(super) window: Option<usize>,
    /// The index of the layer's rotation.
    pub(super) rope: Option<usize>,
}

/// A module's tensors: `name.weight` and perhaps `name.bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) bias: bool,
}

impl Part {
    pub(super) const fn biased(name: &'static str) -> Self {
        Self { name, bias: true }
    }

    pub(super) const fn new(name: &'static str, bias: bool) -> Self {
        Self { name, bias }
    }
}

/// Query, key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qkv {
    Apart([Part; 3]),
    Together(Part),
}

/// The first product of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedIn {
    /// `activation(x W)`.
    Plain(Part),
    /// `activation(x G) * (x U)`, from two matrices.
    Apart { gate: Part, up: Part },
    /// The same, both in one matrix.
    Together { part: Part, gate_first: bool },
}

impl FeedIn {
    pub(super) fn is_gated(self) -> bool {
        !matches!(self, FeedIn::Plain(_))
    }
}

/// Where a checkpoint keeps the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// What may stand before all of them, most likely first.
    pub(super) prefixes: &'static [&'static str],
    pub(super) words: &'static str,
    pub(super) positions: &'static str,
    pub(super) types: &'static str,
    pub(super) embedding_norm: Part,
    /// Before and behind a layer's number.
    pub(super) layer: [&'static str; 2],
    pub(super) qkv: Qkv,
    pub(super) attention_out: Part,
    pub(super) attention_norm: Part,
    pub(super) feed_in: FeedIn,
    pub(super) feed_out: Part,
    pub(super) out_norm: Part,
    pub(super) final_norm: Option<Part>,
}

/// What makes scores of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadKind {
    /// The encoder's own `pooler` with tanh, then `classifier`.
    Pooler,
    /// `classifier.dense` with tanh, then `classifier.out_proj`.
    Classifier,
    /// `pre_classifier` with ReLU, then `classifier`.
    PreClassifier,
    /// `head.dense` with an activation and `head.norm`, then `classifier`; also for each token.
    Prediction {
        /// Whether `head.dense` has a bias.
        bias: bool,
        /// Whether `head.norm` has one.
        norm_bias: bool,
        /// The activation of `head.dense`.
        activation: Activation,
        /// Whether the text's mean is scored rather than its first token.
        mean: bool,
    },
}
