//! The known name that an unknown one may have been meant to be, for messages.

/// Longer names are not compared: the time that takes grows with the square of the length.
const LONGEST: usize = 200;

/// The name of `known` that differs least from `name`, if at most a third of it differs.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    let best = known.into_iter().map(|known| (distance(known, name), known)).min()?;
    (best.0 <= name.len() / 3).then_some(best.1)
}

/// Levenshtein's distance in bytes, between names that are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_third_may_differ() {
        let known = ["legal", "medical"];
        assert_eq!(nearest("leagl", known), None);
        assert_eq!(nearest("lega", known), Some("legal"));
        assert_eq!(nearest("medicine", known), None);
        assert_eq!(nearest("medicals", known), Some("medical"));
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
