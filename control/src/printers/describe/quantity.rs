//! Amounts of resources, read, added and written as Kubernetes does (apimachinery `pkg/api/resource`).
//!
//! `1.5Gi`, `500m`, `2e3` are exact numbers of billionths here, never floating point, and remember the family of their unit:
//! `512Mi` and `512Mi` make `1Gi`, not `1073741824`.

use std::fmt;
use std::ops::AddAssign;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const BILLION: i128 = 1_000_000_000;

/// From billionths on, each a thousand times the one before it.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// From one on, each 1,024 times the one before it.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The family of units an amount was given in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Units {
    #[default]
    Decimal,
    Exponent,
    Binary,
}

/// An exact amount.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amount {
    billionths: i128,
    units: Units,
}

impl Amount {
    /// Nothing if it is no quantity, or one beyond all measure.
    pub(super) fn parse(text: &str) -> Option<Amount> {
        let text = text.trim();
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let (units, factor, exponent) = unit(suffix)?;
        let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(9)?;
        let size = i128::try_from(scaled(digits.checked_mul(factor)?, exponent)?).ok()?;
        Some(Amount { billionths: if text.starts_with('-') { -size } else { size }, units })
    }

    /// Of what is no quantity, which the API takes from who insists, nothing.
    pub(super) fn of(quantity: &Quantity) -> Amount {
        Amount::parse(&quantity.0).unwrap_or_default()
    }

    pub(super) fn is_positive(self) -> bool {
        self.billionths > 0
    }

    pub(super) fn is_zero(self) -> bool {
        self.billionths == 0
    }

    /// Whether it is more than another amount, whatever their units.
    pub(super) fn exceeds(self, other: Amount) -> bool {
        self.billionths > other.billionths
    }

    pub(super) fn equals(self, other: Amount) -> bool {
        self.billionths == other.billionths
    }

    /// In whole units, of which the last may be begun only.
    pub(super) fn whole(self) -> i128 {
        self.rounded_up(BILLION)
    }

    /// In thousandths, of which the last may be begun only.
    pub(super) fn thousandths(self) -> i128 {
        self.rounded_up(BILLION / 1000)
    }

    fn rounded_up(self, unit: i128) -> i128 {
        self.billionths / unit + (self.billionths % unit).signum()
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        if self.is_zero() {
            self.units = other.units;
        }
        self.billionths = self.billionths.saturating_add(other.billionths);
    }
}

/// The canonical form: no fraction, and the largest unit in which there is none.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.billionths / BILLION;
        if self.units == Units::Binary && whole.abs() >= 1024 && self.billionths % BILLION == 0 {
            let (number, unit) = reduced(whole, 1024, BINARY.len() - 1);
            return write!(f, "{number}{}", BINARY[unit]);
        }
        let (number, unit) = reduced(self.billionths, 1000, DECIMAL.len() - 1);
        match self.units {
            _ if number == 0 => f.write_str("0"),
            Units::Exponent if unit != 3 => {
                write!(f, "{number}e{}{}", if unit < 3 { "-" } else { "" }, unit.abs_diff(3) * 3)
            }
            _ => write!(f, "{number}{}", DECIMAL[unit]),
        }
    }
}

/// A quantity in its canonical form; one that is none as it stands.
pub(super) fn canonical(quantity: &Quantity) -> String {
    Amount::parse(&quantity.0).map_or_else(|| quantity.0.clone(), |amount| amount.to_string())
}

/// What a suffix multiplies by: a factor, and a power of ten.
fn unit(suffix: &str) -> Option<(Units, u128, i32)> {
    if let Some(power) = BINARY.iter().skip(1).position(|unit| *unit == suffix) {
        return Some((Units::Binary, 1024 << (10 * power), 0));
    }
    if let Some(thousands) = DECIMAL.iter().zip(-3..).find_map(|(unit, power)| (*unit == suffix).then_some(power)) {
        return Some((Units::Decimal, 1, thousands * 3));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((Units::Exponent, 1, exponent.parse().ok()?))
}

/// Times a power of ten, rounded up: who asks for a little gets a little.
fn scaled(number: u128, exponent: i32) -> Option<u128> {
    let power = 10u128.checked_pow(exponent.unsigned_abs());
    match (exponent < 0, power) {
        (false, Some(power)) => number.checked_mul(power),
        (false, None) => (number == 0).then_some(0),
        (true, Some(power)) => Some(number.div_ceil(power)),
        (true, None) => Some(number.min(1)),
    }
}

/// A number without the factors of `base` in it, and how many they were, `most` of them at most.
fn reduced(mut number: i128, base: i128, most: usize) -> (i128, usize) {
    let mut factors = 0;
    while factors < most && number != 0 && number % base == 0 {
        number /= base;
        factors += 1;
    }
    (number, factors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_in_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("500m", "500m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("2", "2"),
            ("1000", "1k"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1200e3", "1200e3"),
            ("12E5", "1200e3"),
            ("5e-2", "50e-3"),
            ("129M", "129M"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1500.5Ki", "1536512"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-1.5", "-1500m"),
            (" +3 ", "3"),
            ("9E", "9E"),
        ] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), canonical, "{text}");
        }
        for text in ["", "m", "1.2.3", "1 Gi", "1gi", "e3", "1e", "--1", "1e99"] {
            assert!(Amount::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_units_of_the_first() {
        let sum = |texts: &[&str]| {
            let mut sum = Amount::default();
            texts.iter().for_each(|text| sum += Amount::parse(text).unwrap());
            sum.to_string()
        };
        assert_eq!(sum(&["512Mi", "512Mi"]), "1Gi");
        assert_eq!(sum(&["1Gi", "1G"]), "2073741824");
        assert_eq!(sum(&["1G", "1Gi"]), "2073741824");
        assert_eq!(sum(&["250m", "750m"]), "1");
        assert_eq!(sum(&["0", "1Ki", "1Ki"]), "2Ki");
    }

    #[test]
    fn what_is_begun_counts_whole() {
        let amount = |text| Amount::parse(text).unwrap();
        assert_eq!((amount("1500u").thousandths(), amount("1500m").whole()), (2, 2));
        assert_eq!((amount("-1500m").whole(), amount("2Ki").whole()), (-2, 2048));
    }
}
