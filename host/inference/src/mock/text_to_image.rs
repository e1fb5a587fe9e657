//! A scripted model that draws: stripes whose colours the request determines.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use image::{Rgb, RgbImage};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Script, ScriptError};
use crate::AiError;
use crate::backend::{Canvas, DrawRequest, TextToImage};
use crate::diffusion::encode;

/// Pixels of a stripe.
const STRIPE: u32 = 8;

/// Draws by a script: the same prompt, negative prompt, size and seed give the same picture.
pub struct MockPictures {
    script: Arc<Script>,
}

impl MockPictures {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?) })
    }
}

impl TextToImage for MockPictures {
    fn draw(&self, request: DrawRequest) -> BoxFuture<'_, Result<Bytes, AiError>> {
        async move {
            self.script.pause().await;
            if let Some(fail) = &self.script.fail {
                return Err(fail.error.clone());
            }
            let canvas = self.canvas();
            let (height, width) = (request.height.unwrap_or(canvas.height), request.width.unwrap_or(canvas.width));
            let digest: [u8; 32] = Sha256::new()
                .chain_update(request.seed.unwrap_or(0).to_le_bytes())
                .chain_update(&request.prompt)
                .chain_update([0])
                .chain_update(request.negative_prompt.as_deref().unwrap_or_default())
                .finalize()
                .into();
            let colour = |stripe: u32| std::array::from_fn(|i| digest[(3 * stripe as usize + i) % digest.len()]);
            let picture = RgbImage::from_fn(width as u32, height as u32, |x, _| Rgb(colour(x / STRIPE)));
            encode(&picture, request.format)
        }
        .boxed()
    }

    fn canvas(&self) -> Canvas {
        Canvas { height: 64, width: 64, unit: 8 }
    }
}
