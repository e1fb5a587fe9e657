//! Pictures from texts: latent diffusion (Rombach et al. 2022) in the layout that diffusers publishes.
//!
//! A folder with `model_index.json` names its parts: one or two text encoders, a network that tells noise from picture,
//! an autoencoder between pictures and the small maps that the network works on, and a sampler. Every part takes its
//! sizes from its own configuration; what a configuration asks for and is not computed here is refused by name. The
//! forward passes are our own, on the kernels of [`host_kernels::maps`]; diffusers is what they are compared with.
//!
//! A model draws one picture at a time, on a thread of its own and as many more as it may compute on; requests wait at
//! its [`crate::desk`], and between steps it looks whether anybody still waits for what it draws.

mod clip;
mod config;
mod files;
mod flux;
mod layers;
mod painter;
mod pipeline;
mod resnet;
mod schedule;
mod time;
mod transformer;
mod unet;
mod vae;
mod words;

pub(crate) use files::{PIPELINES, Parts};
pub use flux::Flux;
pub use layers::{Check, Plane};
pub(crate) use painter::encode;
pub use painter::{Painter, Settings};
pub use pipeline::{Drawing, Meaning, Pipeline};
pub use schedule::{Schedule, Steps};
