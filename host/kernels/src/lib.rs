//! CPU kernels that candle lacks, for decoder models that serve many sequences at once and for encoders.
//!
//! candle owns the tensor types, the block formats of quantized weights and every operation whose speed does not
//! matter. What is here exists because a measurement asked for it: candle 0.11 has scalar code for Q4_1 and Q5_x on
//! x86, uses its VNNI tiles only where a row is a multiple of 256 wide, and has no attention over a paged KV cache,
//! so sequences of different lengths cannot share a step.
//!
//! - [`tiles`] repacks quantized weights (Q4_0 to Q8_0, Q4_K to Q6_K) once into tiles that a vector register reads
//!   straight; [`matmul`] multiplies rows of int8 [`activations`] with them. [`candle_op`] offers the same as a candle
//!   op.
//! - [`floats`] keeps weights of float types as they are and multiplies them with float activations.
//! - [`kv`] stores keys and values in blocks of 32 tokens, [`attention`] attends over a sequence's list of blocks.
//! - [`cross`] attends in 32-bit floats over what does not change: an encoder's rows, and the past of beams.
//! - [`elementwise`] holds the norms and activations between the products, [`rope`] the rotations.
//! - [`low_rank`] adds the low-rank updates of adapters (LoRA) to those rows that have one.
//! - [`distance`] compares vectors one pair at a time, for searching among many.
//! - [`linear`] multiplies with float32 weights packed once, for encoders; [`encoder`] holds what stands between their
//!   products; [`fixed`] attends over keys and values that many queries share, without a mask.
//! - [`maps`] holds convolutions, norms and attention over maps of features, for models that draw.
//! - `cuda`, behind the feature of that name, is what the GPU path needs of the driver beyond candle's safe interface.
//! - [`vision`] holds convolutions, pools and attention for networks that look at pictures.
//! - [`threads`] is the one pool that all of them share; [`isa`] says which instructions they may use.
//!
//! Products and attention are written once over vector operations (AVX-512 VNNI, AVX2 with and without VNNI, NEON with
//! and without dot products) and compiled for each; elementwise bodies the compiler vectorizes. Every kernel takes an
//! [`isa::Isa`] and has a scalar twin; tests compare the twins on random input. For one `Isa`
//! the result for a row does not depend, to the bit, on which other rows are in the batch: that is what lets a
//! scheduler mix requests freely and still give the same answer for the same seed.
//!
//! This crate knows nothing of models, files or requests. Its shapes are checked with assertions: a wrong shape is a
//! fault of the calling code, which has already checked everything that came from outside.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod activations;
pub mod attention;
pub mod candle_op;
pub mod cross;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod distance;
pub mod elementwise;
pub mod encoder;
pub mod fixed;
pub mod floats;
pub mod isa;
pub mod kv;
pub mod linear;
pub mod low_rank;
pub mod maps;
pub mod matmul;
pub mod rope;
mod simd;
#[cfg(test)]
mod testing;
pub mod threads;
pub mod tiles;
pub mod vision;
