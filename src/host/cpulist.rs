//! Sets of CPUs as the kernel writes them: lists (`0-3,7`) and masks (`f,00000080`).

/// The CPUs of a list; anything else is left out.
pub(super) fn list(text: &str) -> Vec<usize> {
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let range = first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?;
        Some(range)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The CPUs of a mask: words of 32 bits, the highest first.
pub(super) fn mask(text: &str) -> Vec<usize> {
    let words = text.trim().rsplit(',').map(|word| u32::from_str_radix(word, 16).unwrap_or(0));
    words
        .enumerate()
        .flat_map(|(at, word)| (0..32).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 32 + bit))
        .collect()
}

/// A list for people and for smp_affinity_list: `0-3,7`. Takes ascending numbers.
pub(super) fn write(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let range = |&(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// A mask for rps_cpus: `1,00000003`.
pub(super) fn write_mask(cpus: &[usize]) -> String {
    let words = cpus.iter().max().map_or(1, |highest| highest / 32 + 1);
    let word = |at: usize| cpus.iter().filter(|&&cpu| cpu / 32 == at).fold(0u32, |word, cpu| word | 1 << (cpu % 32));
    let highest = format!("{:x}", word(words - 1));
    (0..words - 1).rev().fold(highest, |text, at| format!("{text},{:08x}", word(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_name_the_same_cpus() {
        assert_eq!(list("0-3,7\n"), [0, 1, 2, 3, 7]);
        assert_eq!(list("\n"), Vec::<usize>::new(), "no CPU is isolated");
        assert_eq!(mask("8f\n"), [0, 1, 2, 3, 7]);
        assert_eq!(mask("1,00000003"), [0, 1, 32]);
        assert_eq!(mask("0"), Vec::<usize>::new());
        assert_eq!(write(&[0, 1, 2, 3, 7]), "0-3,7");
        assert_eq!(write_mask(&[0, 1, 2, 3, 7]), "8f");
        assert_eq!(write_mask(&[0, 1, 32]), "1,00000003");
        assert_eq!(write(&[5]), "5");
        assert_eq!(write(&[]), "");
    }
}
