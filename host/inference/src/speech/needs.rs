//! How much memory a transcription takes at most, by the shapes of its model.

use super::config::Config;
use super::search::BEST_OF;
use crate::room::floats;

/// Bytes that everybody who is seated shares: the encoder's buffers, and those in which a window's keys and values are
/// made.
pub(super) fn shared(config: &Config) -> u64 {
    let states = config.encoder.positions * config.width;
    // What a convolution gathers of its neighbours, and the inner values of a layer.
    let wide =
        (config.frames() * 3 * config.mels).max(3 * states).max(config.encoder.positions * config.encoder.intermediate);
    // Of the first convolution's frames there are twice as many as positions. Then the stream, queries, keys and values,
    // those packed, the result; and keys and values for the decoder.
    floats(11 * states + wide)
}

/// Bytes of one seat whose search has so many beams, in a window that says as much as one can.
pub(super) fn seat(config: &Config, heads: usize, beams: usize) -> u64 {
    let (stack, width) = (&config.decoder, config.width);
    let heard = 2 * stack.layers * config.encoder.positions * width;
    let beams = beams.max(BEST_OF);
    // As many tokens of prompt as of text; each beam may have said something else.
    let said = stack.positions / 2;
    let own = 2 * stack.layers * (stack.positions - said + beams * said) * width;
    let search = own + 2 * beams * config.vocabulary;
    // Each token of the text with its logits, and what the heads that follow the sound say of it, sorted once more.
    let timing = 2 * stack.layers * stack.positions * width
        + said * config.vocabulary
        + 2 * heads * stack.positions * config.encoder.positions;
    let rows = stack.positions * (6 * width + stack.intermediate);
    // Samples of a window and of the packet that filled it.
    let sound = 2 * config.window() + config.frames() * config.mels;
    floats(sound + heard + rows + search.max(timing))
}
