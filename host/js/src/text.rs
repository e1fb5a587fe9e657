//! Text of others on a terminal or in a log.
//!
//! A source line, a file's name or a program's complaint may hold characters that move the cursor, recolour the
//! terminal or reorder what stands around them. They are shown, not obeyed.

/// What to print for a character: itself, or a harmless picture of it.
pub(crate) fn shown(c: char) -> char {
    match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' => char::REPLACEMENT_CHARACTER,
        // Marks that change the direction of text, separators that some programs take for line ends, byte order marks.
        '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

/// At most `limit` characters of a text on one line.
pub(crate) fn line(text: &str, limit: usize) -> String {
    let mut chars = text.chars();
    let mut line: String = chars.by_ref().take(limit).map(shown).collect();
    if chars.next().is_some() {
        line.push('…');
    }
    line
}

/// At most `limit` characters of a text that may have several lines, all but the first of which are indented.
pub(crate) fn lines(text: &str, limit: usize, indent: &str) -> String {
    let mut out = String::new();
    for (number, text) in text.trim_end().lines().enumerate() {
        let room = limit.saturating_sub(out.chars().count());
        if room == 0 {
            out.push('…');
            break;
        }
        if number > 0 {
            out.push('\n');
            out.push_str(indent);
        }
        out.push_str(&line(text.trim_end_matches('\r'), room));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(line("a\x1b[31mb\u{9b}c\u{202e}d\te\x7f", 100), "a␛[31mb\u{fffd}c\u{fffd}d␉e␡");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(line("abcdef", 3), "abc…");
        assert_eq!(line("abc", 3), "abc");
        assert_eq!(lines("ab\ncd\r\nef\n", 100, "  "), "ab\n  cd\n  ef");
        assert_eq!(lines("ab\ncd", 2, "  "), "ab…");
    }
}
