//! Hostile bytes for every parser, with any compiler: the targets of `fuzz/targets`, their corpus, and mutations of it.
//!
//! What is tried follows from a seed: `BARBACK_SEED` chooses another, `BARBACK_MUTATIONS` how many inputs each target gets. An
//! input that fails is kept in `target/fuzz-failures`. One that ends the whole process, as a stack does that is too small, is
//! kept there when a seed is given: then each is written down before it is tried.
#![allow(clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::Random;
use targets::TARGETS;

#[path = "../fuzz/targets/mod.rs"]
mod targets;

/// So many inputs take each target some two seconds, without optimisation.
const MUTATIONS: u64 = 1500;

/// Any will do; the same one finds the same.
const SEED: u64 = 20_261_125;

/// No input is longer, whatever mutations add.
const LONGEST_BYTES: usize = 16 << 10;

/// A parser that takes so long for so little is as good as one that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole corpus stays small: it is kept in the repository for good.
const CORPUS_LIMIT_BYTES: u64 = 400 << 10;

macro_rules! fuzz {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            fuzz(stringify!($target));
        })*

        /// Those that have a test.
        const TESTED: &[&str] = &[$(stringify!($target)),*];
    };
}

fuzz! {
    arguments backup_info catalogue cluster_files configuration connection_settings decoders history local_notes manifest names
    records store_answers tar wal
}

#[test]
fn every_target_has_a_test_a_program_and_a_corpus() {
    let manifest = fs::read_to_string(at("fuzz/Cargo.toml")).expect("the fuzz crate has a manifest");
    for (name, _) in TARGETS {
        let program = fs::read_to_string(at(&format!("fuzz/bin/{name}.rs"))).expect("each target has a program");
        assert!(program.contains(&format!("run(\"{name}\", bytes)")), "{program}");
        assert!(
            manifest.contains(&format!("[[bin]]\nname = \"{name}\"\n")),
            "fuzz/Cargo.toml does not name \"{name}\""
        );
    }
    let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TESTED.iter().copied().collect());
    let bytes: u64 = TARGETS.iter().flat_map(|(name, _)| corpus(name)).map(|content| content.len() as u64).sum();
    assert!(bytes <= CORPUS_LIMIT_BYTES, "the corpus has {bytes} bytes");
}

/// Gives a target its corpus as it is, and then mutations of it.
fn fuzz(name: &str) {
    let corpus = corpus(name);
    let seed = variable("BARBACK_SEED");
    let attempts = Attempts { name, seed: seed.unwrap_or(SEED), writes_each: seed.is_some() };
    for (number, input) in corpus.iter().enumerate() {
        attempts.run(&format!("file {number} of its corpus"), input);
    }
    for number in 0..variable("BARBACK_MUTATIONS").unwrap_or(MUTATIONS) {
        let mut random = Random(attempts.seed.wrapping_add(number.wrapping_mul(0x2545_F491_4F6C_DD1D)));
        attempts.run(&format!("mutation {number}"), &mutation(&corpus, &mut random));
    }
}

struct Attempts<'a> {
    name: &'a str,
    seed: u64,
    writes_each: bool,
}

impl Attempts<'_> {
    fn run(&self, which: &str, input: &[u8]) {
        if self.writes_each {
            keep(&format!("{}-last", self.name), input);
        }
        let begun = Instant::now();
        let outcome = catch_unwind(|| targets::run(self.name, input));
        let took = begun.elapsed();
        if outcome.is_err() || took > PATIENCE {
            let Self { name, seed, .. } = self;
            let kept = keep(&format!("{name}-{seed}-{}", which.replace(' ', "-")), input);
            let how = if outcome.is_err() { "failed".to_owned() } else { format!("took {took:?}") };
            panic!(
                "target \"{name}\" {how}: BARBACK_SEED={seed}, {which}; kept as \"{}\": put it into fixtures/fuzz/{name}",
                kept.display()
            );
        }
    }
}

/// Writes an input down, below what cargo builds.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fuzz-failures");
    fs::create_dir_all(&directory).expect("a directory can be made");
    let path = directory.join(name);
    fs::write(&path, input).expect("a file can be written");
    path
}

/// The files of a target's corpus, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = at(&format!("fixtures/fuzz/{name}"));
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of \"{name}\" is empty");
    files.iter().map(|file| fs::read(file).expect("a file can be read")).collect()
}

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not \"{text}\"")))
}

/// One file of the corpus, mutated a few times; now and then nothing but noise.
fn mutation(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    if random.chance(5) {
        let length = below(random, 2048);
        return (0..length).map(|_| byte(random)).collect();
    }
    let mut input = random.pick(corpus).clone();
    for _ in 0..=random.below(6) {
        mutate(&mut input, corpus, random);
        input.truncate(LONGEST_BYTES);
    }
    input
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    const BYTES: [u8; 16] = [0, 1, 9, 10, 32, 34, 39, 45, 46, 47, 58, 61, 92, 127, 128, 255];
    const WORDS: [u64; 8] = [0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];
    if input.is_empty() {
        input.push(byte(random));
    }
    let place = below(random, input.len());
    let piece = place..(place + 1 + below(random, 64)).min(input.len());
    match random.below(10) {
        0 => input[place] ^= 1 << random.below(8),
        1 => input[place] = *random.pick(&BYTES),
        2 => input[place] = byte(random),
        3 => input.truncate(place),
        4 => {
            let copy = input[piece.clone()].to_vec();
            let times = if random.chance(20) { 1 + below(random, 200) } else { 1 };
            input.splice(place..place, copy.repeat(times));
        }
        5 => drop(input.drain(piece)),
        6 => {
            let other = below(random, input.len());
            input.swap(place, other);
        }
        7 => {
            let other = random.pick(corpus);
            let from = below(random, other.len().max(1)).min(other.len());
            let to = (from + 1 + below(random, 512)).min(other.len());
            input.splice(piece, other[from..to].iter().copied());
        }
        8 => {
            let word = random.pick(&WORDS).to_le_bytes();
            let width = *random.pick(&[1, 2, 4, 8]);
            let end = (place + width).min(input.len());
            input[place..end].copy_from_slice(&word[..end - place]);
        }
        _ => replace_number(input, place, random),
    }
}

/// Puts a number of another kind in the place of the first one behind `place`.
fn replace_number(input: &mut Vec<u8>, place: usize, random: &mut Random) {
    const NUMBERS: [&[u8]; 12] = [
        b"0",
        b"-1",
        b"007",
        b"1.5",
        b"1e999",
        b"FFFFFFFF/FFFFFFFF",
        b"4294967295",
        b"4294967296",
        b"9223372036854775807",
        b"18446744073709551615",
        b"18446744073709551616",
        b"99999999999999999999999999999999999999999",
    ];
    let Some(begin) = (place..input.len()).find(|at| input[*at].is_ascii_digit()) else { return };
    let end = (begin..input.len()).find(|at| !input[*at].is_ascii_digit()).unwrap_or(input.len());
    input.splice(begin..end, random.pick(&NUMBERS).iter().copied());
}

fn byte(random: &mut Random) -> u8 {
    random.next().to_le_bytes()[0]
}

/// A number below `limit`, which is not 0.
fn below(random: &mut Random, limit: usize) -> usize {
    usize::try_from(random.below(limit as u64)).expect("it is smaller than a length")
}
