//! Numbers as the canonical form writes them.

use std::fmt::{self, Write as _};

/// A finite number as ECMAScript writes it (ECMA-262, `Number::toString`), which RFC 8785 asks for in section 3.2.2.3.
/// The shortest digits come from the crate that `serde_json` writes numbers with; the standard library's will not do: of
/// two texts that are equally short and equally near it does not take the even one. Their layout is made here.
pub(super) fn ecmascript(number: f64) -> Text {
    let mut buffer = zmij::Buffer::new();
    // Negative zero is written as zero.
    let shortest = buffer.format_finite(if number == 0.0 { 0.0 } else { number });
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Digits without zeros on either side, and where the point stands among them.
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let (whole, fraction, lead) = if whole.is_empty() {
        let digits = fraction.trim_start_matches('0');
        (digits, "", signed(digits.len()).saturating_sub(signed(fraction.len())))
    } else {
        (whole, fraction, signed(whole.len()))
    };
    let whole = if fraction.is_empty() { whole.trim_end_matches('0') } else { whole };
    if whole.is_empty() {
        return Text::from("0");
    }
    // In the words of ECMA-262, the value is 0.digits × 10^n.
    let n = exponent.parse::<i32>().unwrap_or(0).saturating_add(lead);
    let count = signed(whole.len()).saturating_add(signed(fraction.len()));
    let digits = || whole.chars().chain(fraction.chars());

    let mut text = Text::default();
    text.extend(sign.chars());
    if (count..=21).contains(&n) {
        text.extend(digits());
        text.extend((count..n).map(|_| '0'));
    } else if (1..=21).contains(&n) {
        let point = usize::try_from(n).unwrap_or(0);
        text.extend(digits().take(point));
        text.extend(['.']);
        text.extend(digits().skip(point));
    } else if (-5..=0).contains(&n) {
        text.extend("0.".chars());
        text.extend((n..0).map(|_| '0'));
        text.extend(digits());
    } else {
        text.extend(digits().take(1));
        if count > 1 {
            text.extend(['.']);
            text.extend(digits().skip(1));
        }
        let _ = write!(text, "e{:+}", n.saturating_sub(1));
    }
    text
}

fn signed(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// A short ASCII text without an allocation: the longest number has 25 characters.
#[derive(Default)]
pub(super) struct Text {
    bytes: [u8; 32],
    length: usize,
}

impl Text {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    #[cfg(test)]
    fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn extend(&mut self, chars: impl IntoIterator<Item = char>) {
        for c in chars {
            let _ = self.write_char(c);
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut written = Self::default();
        written.extend(text.chars());
        written
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length.saturating_add(text.len());
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ecmascript;

    #[test]
    fn numbers_are_written_as_ecmascript_does() {
        // RFC 8785, appendix B.
        for (bits, expected) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            assert_eq!(ecmascript(f64::from_bits(bits)).as_str(), expected);
        }
    }
}
