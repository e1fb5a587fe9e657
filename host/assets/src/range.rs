//! `Range`: a part of a file (RFC 9110, section 14).
//!
//! One range of bytes is answered. Several at once are a way to make a server send a file many times over; as the
//! standard allows, such a request gets the whole file once.

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: no header, or one that is not understood.
    Whole,
    /// This many bytes from this one; never none.
    Part {
        /// The first byte.
        start: u64,
        /// How many.
        length: u64,
    },
    /// Bytes that the file does not have.
    Unsatisfiable,
}

/// Reads the header for a file of `size` bytes.
pub(crate) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    header.and_then(|header| parse(header, size)).unwrap_or(Wanted::Whole)
}

fn parse(header: &str, size: u64) -> Option<Wanted> {
    let (unit, range) = header.split_once('=')?;
    let (from, to) = range.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (start, end) = match (number(from)?, number(to)?) {
        (None, None) => return None,
        (None, Some(last)) => (size.saturating_sub(last), if last == 0 { 0 } else { size }),
        (Some(from), None) => (from, size),
        (Some(from), Some(to)) if from <= to => (from, to.saturating_add(1).min(size)),
        (Some(_), Some(_)) => return None,
    };
    Some(match end.checked_sub(start) {
        Some(length) if length > 0 => Wanted::Part { start, length },
        _ => Wanted::Unsatisfiable,
    })
}

/// A number, no number where there is nothing, or none for anything else. One past all bounds is the largest.
fn number(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    match text {
        "" => Some(None),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => Some(Some(text.parse().unwrap_or(u64::MAX))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let part = |start, length| Wanted::Part { start, length };
        let cases = [
            ("bytes=0-3", part(0, 4)),
            ("bytes=4-", part(4, 6)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=9-9", part(9, 1)),
            ("bytes=0-99999999999999999999999", part(0, 10)),
            ("BYTES = 2-2", part(2, 1)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=3-2", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(wanted(Some(header), 10), expected, "{header}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }
}
