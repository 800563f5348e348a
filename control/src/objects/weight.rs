//! Weights of endpoints: annotations that say how many of a Service's new flows an endpoint gets, relative to the others.
//!
//! ```text
//! Pod            pollgate.io/weight          ─▶ the slices made from it, one slice for each weight
//! EndpointSlice  pollgate.io/weight          ─▶ each of its endpoints
//! Endpoints      pollgate.io/weight          ─▶ the slices that mirror them
//!                service.cilium.io/weight    ─▶ the same, without the other: Cilium's own (1.20), which has only slices
//! ```
//!
//! 0 to 65535; 0 means no new flows. An endpoint without a weight has [`DEFAULT`], as in Cilium.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The annotation on Pods and EndpointSlices.
pub const WEIGHT_ANNOTATION: &str = "pollgate.io/weight";

/// Cilium's annotation on EndpointSlices.
pub const CILIUM_WEIGHT_ANNOTATION: &str = "service.cilium.io/weight";

/// The weight of an endpoint without any.
pub const DEFAULT: u16 = 100;

/// The validation message for an invalid weight.
pub const NOT_A_WEIGHT: &str = "must be an integer between 0 and 65535";

/// A weight from its text; `None` if the text is not a weight.
pub fn parse(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The annotations of an object that are weights, the one that counts first: (key, text).
pub fn annotations(metadata: &ObjectMeta) -> impl Iterator<Item = (&'static str, &str)> {
    let keys = [WEIGHT_ANNOTATION, CILIUM_WEIGHT_ANNOTATION];
    keys.into_iter().filter_map(|key| Some((key, metadata.annotations.as_ref()?.get(key)?.as_str())))
}

/// The weight of every endpoint of a slice. One that cannot be read counts as absent: objects are checked when they are written.
pub fn of_slice(metadata: &ObjectMeta) -> u16 {
    annotations(metadata).find_map(|(_, text)| parse(text)).unwrap_or(DEFAULT)
}

/// The weight that a Pod's own annotation gives it.
pub fn of_pod(metadata: &ObjectMeta) -> Option<u16> {
    parse(metadata.annotations.as_ref()?.get(WEIGHT_ANNOTATION)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&str, &str)]) -> ObjectMeta {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ObjectMeta { annotations: Some(pairs.collect()), ..ObjectMeta::default() }
    }

    #[test]
    fn a_weight_is_a_whole_number_of_16_bits() {
        for (text, weight) in [("0", Some(0)), ("007", Some(7)), ("65535", Some(65_535))] {
            assert_eq!(parse(text), weight, "{text}");
        }
        for text in ["", "65536", "-1", "+1", "1.5", "50%", " 1", "1 ", "heavy"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn our_annotation_counts_before_ciliums_which_is_for_slices() {
        let both = metadata(&[(CILIUM_WEIGHT_ANNOTATION, "7"), (WEIGHT_ANNOTATION, "5")]);
        assert_eq!((of_slice(&both), of_pod(&both)), (5, Some(5)));
        let ciliums = metadata(&[(CILIUM_WEIGHT_ANNOTATION, "7")]);
        assert_eq!((of_slice(&ciliums), of_pod(&ciliums)), (7, None));
        assert_eq!((of_slice(&ObjectMeta::default()), of_pod(&ObjectMeta::default())), (100, None));
    }
}
