//! Lines from standard input, with a bound on each.

use std::io::{self, BufRead};

use super::limits::LINE_BYTES_MAX;

/// One line, or why it is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// Longer than a message may be.
    TooLong,
    /// Not UTF-8.
    NotText,
}

/// Reads one line without its end; `None` at the end of input. A line that is
/// too long is read to its end and dropped, in bounded memory.
pub(super) fn read_line(input: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut read_any = false;
    let mut too_long = false;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            Err(fault) => return Err(fault),
        };
        if chunk.is_empty() {
            break;
        }
        read_any = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        too_long |= line.len() + part.len() > LINE_BYTES_MAX;
        if !too_long {
            line.extend_from_slice(part);
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            break;
        }
    }
    if !read_any {
        return Ok(None);
    }
    if too_long {
        return Ok(Some(Line::TooLong));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(
        String::from_utf8(line).map_or(Line::NotText, Line::Text),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(bytes: &[u8], buffer: usize) -> Vec<Line> {
        let mut input = BufReader::with_capacity(buffer, bytes);
        std::iter::from_fn(|| read_line(&mut input).unwrap()).collect()
    }

    #[test]
    fn lines_end_at_newlines_and_at_the_end() {
        let text = |text: &str| Line::Text(text.into());
        for buffer in [1, 2, 5, 4096] {
            assert_eq!(lines(b"", buffer), []);
            assert_eq!(
                lines(b"a\r\n\nb c\nlast", buffer),
                [text("a"), text(""), text("b c"), text("last")]
            );
            assert_eq!(lines(b"a\xff\nb\n", buffer), [Line::NotText, text("b")]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_alone() {
        let mut bytes = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(lines(&bytes, 100), [Line::Text("x".repeat(LINE_BYTES_MAX))]);
        bytes.push(b'x');
        bytes.extend_from_slice(b"\nnext\n");
        let expected = [Line::TooLong, Line::Text("next".into())];
        assert_eq!(lines(&bytes, 100), expected);
    }
}
