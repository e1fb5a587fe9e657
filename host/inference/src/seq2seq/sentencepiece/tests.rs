use proptest::prelude::*;

use super::*;

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut length = bytes.len();
    let mut out = vec![number << 3 | 2];
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    field(1, &[field(1, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec(), vec![0x18, kind]].concat())
}

fn model(algorithm: u8) -> Vec<u8> {
    [
        piece("<unk>", 0.0, 2),
        piece("</s>", 0.0, 3),
        piece("\u{2581}", -3.0, 1),
        piece("a", -4.0, 1),
        piece("b", -4.5, 1),
        piece("ab", -2.0, 1),
        piece("\u{2581}ab", -2.5, 1),
        piece("ba", -1.0, 1),
        piece("<own>", 0.0, 4),
        field(2, &[0x18, algorithm]),
    ]
    .concat()
}

#[test]
fn texts_are_split_by_the_best_scores() {
    let unigram = SentencePiece::read(&model(1)).unwrap();
    assert_eq!(unigram.split("  ab  ab "), ["\u{2581}ab", "\u{2581}ab"]);
    assert_eq!(unigram.split("abba"), ["\u{2581}ab", "ba"]);
    assert_eq!(unigram.split("a日本a"), ["\u{2581}", "a", "日本", "a"]);
    assert_eq!(unigram.split("a<own>b"), ["\u{2581}", "a", "<own>", "b"]);
    assert_eq!(unigram.split("   "), [""; 0]);
    let bpe = SentencePiece::read(&model(2)).unwrap();
    assert_eq!(bpe.split("aba"), ["\u{2581}", "a", "ba"]);
    assert_eq!(bpe.split("ab日本<own>"), ["\u{2581}ab", "日本", "<own>"]);
}

#[test]
fn broken_models_are_refused() {
    let refused = |bytes: &[u8]| SentencePiece::read(bytes).map(|_| ()).unwrap_err();
    assert!(refused(b"").contains("no pieces"));
    assert!(refused(&[0x0a, 0xff]).contains("ends inside"));
    assert!(refused(&[0x0b]).contains("wire type 3"));
    assert!(refused(&piece("a", f32::NAN, 1)).contains("piece 0: its score is NaN"));
    assert!(refused(&piece("", 0.0, 1)).contains("0 bytes"));
    assert!(refused(&[model(1), field(2, &[0x18, 3])].concat()).contains("unigram and BPE"));
    let map = field(3, &field(2, &[0xff, 0, 0, 0, 1]));
    assert!(refused(&[model(1), map].concat()).contains("claims 255 bytes of 1"));
}

proptest! {
    #[test]
    fn no_map_of_characters_does_harm(map in prop::collection::vec(any::<u32>(), 0..40), text in ".{0,20}") {
        let units: Vec<u8> = map.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let size = (units.len() as u32).to_le_bytes();
        let map = field(3, &field(2, &[&size[..], &units, b"a\0bc\0"].concat()));
        let model = SentencePiece::read(&[model(1), map].concat()).unwrap();
        let _ = model.split(&text);
    }

    #[test]
    fn pieces_make_the_text_again(text in "[ab日 <>own]{0,30}") {
        for algorithm in [1, 2] {
            let model = SentencePiece::read(&model(algorithm)).unwrap();
            let joined = model.split(&text).concat().replace(SPACE, " ");
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            prop_assert_eq!(joined.trim_start(), words.join(" "));
        }
    }
}
