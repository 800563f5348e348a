//! Maps, and programs that the kernel refuses.

use pollgate_dataplane::bpf::{Assembler, Kind, Map, Program, Reg, Width};

use crate::shared::harness::tests;
use crate::shared::needs::Need::{Bpf, Lab};

tests! {
    [Lab, Bpf] =>
        a_map_keeps_what_is_written_until_it_is_removed,
        a_refused_program_comes_with_the_verifiers_reasons;
}

fn a_map_keeps_what_is_written_until_it_is_removed() {
    let map = Map::<20, 4>::new(Kind::Hash, "pg_test", 2).expect("a map");
    let (key, other) = ([7; 20], [8; 20]);
    assert_eq!(map.get(&key).expect("a look"), None);
    map.insert(&key, &[1, 2, 3, 4]).expect("inserted");
    map.insert(&key, &[5; 4]).expect("replaced");
    map.insert(&other, &[6; 4]).expect("inserted");
    assert_eq!(map.get(&key).expect("a look"), Some([5; 4]));
    let full = map.insert(&[9; 20], &[0; 4]).expect_err("it is full");
    assert_eq!(full.raw_os_error(), Some(libc::E2BIG));
    assert!(map.remove(&key).expect("removed"));
    assert!(!map.remove(&key).expect("nothing to remove"));
    assert_eq!((map.get(&key).expect("a look"), map.get(&other).expect("a look")), (None, Some([6; 4])));
}

fn a_refused_program_comes_with_the_verifiers_reasons() {
    // It reads the frame without looking where that ends.
    let mut code = Assembler::new();
    code.load(Width::Word, Reg::R2, Reg::R1, 0);
    code.load(Width::Byte, Reg::R0, Reg::R2, 0);
    code.exit();
    let error = Program::load("pg_test", &code.finish().expect("a program")).expect_err("refused");
    assert_eq!(error.source.raw_os_error(), Some(libc::EACCES));
    let told = error.to_string();
    assert!(told.contains("the verifier reports:") && told.contains("invalid access to packet"), "{told}");
}
