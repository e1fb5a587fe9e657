//! What happens to a text before it is split: characters are replaced as the model's map says, spaces collapse and
//! become visible.
//!
//! The map is a double array (Aoe 1989) from texts to places in a list of their replacements, each ended by a zero byte.
//! At each place the longest text of the map counts. Arrays come from the file, so each step looks where it goes.

use super::SPACE;

/// Texts of the map that begin at one place are looked at up to this length.
const LONGEST: usize = 256;

pub(super) struct Normalizer {
    units: Vec<u32>,
    replacements: String,
    pub(super) dummy_prefix: bool,
    pub(super) collapse: bool,
    pub(super) escape: bool,
    /// Texts that stay as they are, longest first.
    kept: Vec<String>,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self {
            units: Vec::new(),
            replacements: String::new(),
            dummy_prefix: true,
            collapse: true,
            escape: true,
            kept: Vec::new(),
        }
    }
}

impl Normalizer {
    /// Sets the map: the bytes of the array, the array, the replacements.
    pub(super) fn set_map(&mut self, map: &[u8]) -> Result<(), String> {
        let (size, rest) = map.split_first_chunk().ok_or("its map of characters has no size")?;
        let size = u32::from_le_bytes(*size) as usize;
        if size > rest.len() || !size.is_multiple_of(4) {
            return Err(format!("its map of characters claims {size} bytes of {}", rest.len()));
        }
        let (units, replacements) = rest.split_at(size);
        self.units = units.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let replacements = std::str::from_utf8(replacements).map_err(|_| "its map replaces by what is no UTF-8")?;
        replacements.clone_into(&mut self.replacements);
        Ok(())
    }

    pub(super) fn keep(&mut self, mut texts: Vec<String>) {
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        self.kept = texts;
    }

    pub(super) fn normalize(&self, text: &str) -> String {
        let mut rest = text;
        let mut out = String::with_capacity(text.len() + SPACE.len_utf8());
        if self.collapse {
            while !rest.is_empty() {
                let (replacement, length) = self.prefix(rest);
                if replacement != " " {
                    break;
                }
                rest = &rest[length..];
            }
        }
        if rest.is_empty() {
            return out;
        }
        let space = if self.escape { SPACE } else { ' ' };
        if self.dummy_prefix {
            out.push(space);
        }
        let mut after_space = self.collapse;
        while !rest.is_empty() {
            let (mut replacement, length) = self.prefix(rest);
            if after_space {
                replacement = replacement.trim_start_matches(' ');
            }
            if !replacement.is_empty() {
                out.extend(replacement.chars().map(|c| if c == ' ' { space } else { c }));
                after_space = replacement.ends_with(' ');
            }
            after_space &= self.collapse;
            rest = &rest[length..];
        }
        if self.collapse {
            out.truncate(out.trim_end_matches(space).len());
        }
        out
    }

    /// What the beginning of a text that is not empty becomes, and how long that beginning is.
    fn prefix<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some(kept) = self.kept.iter().find(|kept| text.starts_with(kept.as_str())) {
            return (&text[..kept.len()], kept.len());
        }
        if let Some((place, length)) = self.longest(text.as_bytes())
            && text.is_char_boundary(length)
            && let Some(replacement) = self.replacements.get(place..)
        {
            return (replacement.split('\0').next().unwrap_or_default(), length);
        }
        let length = text.chars().next().map_or(text.len(), char::len_utf8);
        (&text[..length], length)
    }

    /// Where the replacement of the longest text of the map is that `text` begins with, and that one's length.
    fn longest(&self, text: &[u8]) -> Option<(usize, usize)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
        let mut place = offset(*self.units.first()?);
        let mut found = None;
        for (depth, byte) in text.iter().take(LONGEST).enumerate() {
            place ^= usize::from(*byte);
            let Some(unit) =
                self.units.get(place).filter(|unit| *byte != 0 && (**unit & (1 << 31 | 0xff)) == u32::from(*byte))
            else {
                break;
            };
            place ^= offset(*unit);
            if unit >> 8 & 1 == 1
                && let Some(leaf) = self.units.get(place)
            {
                found = Some(((leaf & 0x7fff_ffff) as usize, depth + 1));
            }
        }
        found
    }
}
