//! Visible forms of control characters, for text from tasks and servers that goes to a terminal.
//!
//! An escape sequence in a log or in a message can rename the window, change what was printed before, or make some
//! terminals type a command. Characters that reorder a line (bidirectional overrides) can show a name as another one.

use std::borrow::Cow;

/// `text` with every control character except tab and newline in a form that a terminal prints and does not obey.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            // The end of a line of DOS.
            '\r' if characters.peek() == Some(&'\n') => {}
            character if is_hidden(character) => push_visible(&mut shown, character),
            character => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

/// JSON text with the control characters that JSON allows in strings in their escaped form.
pub(crate) fn visible_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_hidden) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_hidden(character) {
            // All of them are in the Basic Multilingual Plane, so one escape is enough.
            escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn push_visible(shown: &mut String, character: char) {
    /// First of the pictures of the characters below U+0020: `␀`.
    const CONTROL_PICTURES: u32 = 0x2400;
    let code = u32::from(character);
    match char::from_u32(CONTROL_PICTURES + code) {
        Some(picture) if code < 0x20 => shown.push(picture),
        _ => shown.push_str(&format!("<U+{code:04X}>")),
    }
}

fn is_hidden(character: char) -> bool {
    let reorders = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    reorders || character.is_control() && !matches!(character, '\t' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_escape_sequences_as_text() {
        assert_eq!(visible("\x1b]0;title\x07 a\tb\r\nc\rd"), "␛]0;title␇ a\tb\nc␍d");
        assert_eq!(
            visible("\u{9b}2J \u{7f}\u{202e}abc"),
            "<U+009B>2J <U+007F><U+202E>abc"
        );
    }

    #[test]
    fn leaves_other_text_alone() {
        assert!(matches!(visible("zlib: größer → 1\n\tok"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "log": "\x1b[1m \u{9b}2J \u{202e}" });
        let json = value.to_string();
        let shown = visible_json(&json);
        assert!(!shown.contains(is_hidden), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
