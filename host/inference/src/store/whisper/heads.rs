//! Which heads of the published models' cross attention follow the sound.
//!
//! Word times are read off them. The makers found them by looking and publish them beside the weights, in code; two
//! forms of a model (ggml, and CTranslate2 without a `config.json` of this decade) do not carry them. Facts from
//! `openai/whisper`, `whisper/__init__.py`.

/// Layer and head.
type Heads = &'static [(u8, u8)];

/// By vocabulary, width and layers of the decoder. The first two large models have one shape and different heads, so
/// neither is here.
const KNOWN: [(usize, usize, usize, Heads); 10] = [
    (51_864, 384, 4, &[(1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)]),
    (51_865, 384, 4, &[(2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)]),
    (51_864, 512, 6, &[(3, 3), (4, 7), (5, 1), (5, 5), (5, 7)]),
    (51_865, 512, 6, &[(3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)]),
    (51_864, 768, 12, SMALL_ENGLISH),
    (51_865, 768, 12, &[(5, 3), (5, 9), (8, 0), (8, 4), (8, 7), (8, 8), (9, 0), (9, 7), (9, 9), (10, 5)]),
    (51_864, 1024, 24, MEDIUM_ENGLISH),
    (51_865, 1024, 24, &[(13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)]),
    (51_866, 1280, 32, LARGE_3),
    (51_866, 1280, 4, &[(2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)]),
];

#[rustfmt::skip]
const SMALL_ENGLISH: Heads = &[
    (6, 6), (7, 0), (7, 3), (7, 8), (8, 2), (8, 5), (8, 7), (9, 0), (9, 4), (9, 8), (9, 10), (10, 0), (10, 1), (10, 2),
    (10, 3), (10, 6), (10, 11), (11, 2), (11, 4),
];
#[rustfmt::skip]
const MEDIUM_ENGLISH: Heads = &[
    (11, 4), (14, 1), (14, 12), (14, 14), (15, 4), (16, 0), (16, 4), (16, 9), (17, 12), (17, 14), (18, 7), (18, 10),
    (18, 15), (20, 0), (20, 3), (20, 9), (20, 14), (21, 12),
];
#[rustfmt::skip]
const LARGE_3: Heads = &[
    (7, 0), (10, 17), (12, 18), (13, 12), (16, 1), (17, 14), (19, 11), (21, 4), (24, 1), (25, 6),
];

/// The heads of the published model of this shape, if it is one.
pub(in crate::store) fn of(vocabulary: usize, width: usize, layers: usize) -> Option<Heads> {
    KNOWN.iter().find(|(v, w, l, _)| (*v, *w, *l) == (vocabulary, width, layers)).map(|(.., heads)| *heads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_of_layers_that_there_are() {
        for (_, width, layers, heads) in KNOWN {
            assert!(heads.iter().all(|(layer, head)| usize::from(*layer) < layers && usize::from(*head) < width / 64));
            assert!(heads.is_sorted());
        }
        assert_eq!(of(51_864, 384, 4).unwrap().len(), 8);
        assert_eq!(of(51_865, 1280, 32), None);
    }
}
