//! `${NAME}` and `${NAME:-default}` in values, filled in from the environment.

use super::reading::Fault;

/// Fills in every reference; `$${` stands for `${` itself. What is filled in is not looked at again.
pub(super) fn fill_in(
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Fault> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = (&rest[..at], &rest[at + 2..]);
        if let Some(literal) = before.strip_suffix('$') {
            filled.push_str(literal);
            filled.push_str("${");
            rest = reference;
            continue;
        }
        filled.push_str(before);
        let Some((inside, after)) = reference.split_once('}') else {
            return Err(Fault::new(
                "a reference to the environment is not closed",
                "write ${NAME} or ${NAME:-default}",
            ));
        };
        filled.push_str(&look_up(inside, environment)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Whether the text is one reference without a default, so that showing it shows no value.
pub(super) fn is_reference(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(is_name)
}

/// As in a shell, a default also stands in for a variable that is set to nothing.
fn look_up(inside: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, Fault> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        let hint = "write ${NAME} or ${NAME:-default}; $${ stands for ${ itself";
        return Err(Fault::new("this is not the name of an environment variable", hint));
    }
    let value = environment(name).filter(|value| !(value.is_empty() && default.is_some()));
    value.or_else(|| default.map(str::to_owned)).ok_or_else(|| {
        let hint = format!("set it, or give a default: ${{{name}:-default}}");
        Fault::new(format!("the environment variable `{name}` is not set"), hint)
    })
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::fill_in;

    #[test]
    fn references_are_filled_in_once() {
        let environment = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${A}".to_owned()),
            _ => None,
        };
        let check = |text: &str, expected: Result<&str, &str>| {
            let filled = fill_in(text, &environment);
            assert_eq!(
                filled.as_deref().map_err(|fault| fault.message.as_str()),
                expected,
                "{text}"
            );
        };
        check("plain $5 {A}", Ok("plain $5 {A}"));
        check("${A}", Ok("one"));
        check("a${A}b${A}c", Ok("aonebonec"));
        check("${B:-two}", Ok("two"));
        check("${A:-two}", Ok("one"));
        check("${B:-}", Ok(""));
        check("${EMPTY}", Ok(""));
        check("${EMPTY:-two}", Ok("two"));
        check("${NESTED}", Ok("${A}"));
        check("$${A}", Ok("${A}"));
        check("${B}", Err("the environment variable `B` is not set"));
        check("${A", Err("a reference to the environment is not closed"));
        check("${}", Err("this is not the name of an environment variable"));
        check("${A-B}", Err("this is not the name of an environment variable"));
        check("${1A}", Err("this is not the name of an environment variable"));
    }
}
