//! What networks that look at pictures need beyond [`crate::linear`]: convolutions, pools and row-wise work
//! spread over threads.
//!
//! Pictures are stored pixel by pixel with their channels beside each other, so that a convolution is a product of rows
//! with a packed matrix and a convolution of one pixel is that product alone. Work is cut by rows (pixels,
//! tokens), so how many threads there are changes no result.

mod conv;
mod depthwise;
mod pool;
mod rows;

pub use conv::{BatchNorm, Conv, Map};
pub use depthwise::Depthwise;
pub use pool::{max_pool, mean_pool};
pub use rows::{Activation, activate, each_row_block};
