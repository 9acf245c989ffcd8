//! The peek against other parsers: on the bytes as they are, and on the message that they choose.
#![no_main]

#[path = "../../tests/peek/generator.rs"]
mod generator;
#[path = "../../tests/peek/oracle.rs"]
mod oracle;
#[path = "../../tests/peek/rules.rs"]
mod rules;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    _ = oracle::judge(bytes);
    _ = oracle::judge(&generator::body(bytes));
});
