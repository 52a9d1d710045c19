#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| barback_fuzz::run("tar", bytes));
