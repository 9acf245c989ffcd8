//! What a condition reads, found before it runs: a name that nobody knows is a fault of the file.

use std::collections::BTreeSet;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use crate::config::nearest;

/// Deeper expressions are programs, and would be slow to ask.
const DEPTH_MAX: usize = 32;
/// One loop inside another is slow enough.
const LOOPS_MAX: usize = 2;

const VARIABLES: [&str; 8] =
    ["caller", "server", "tool", "prompt", "resource", "method", "arguments", "client"];
const CALLER: [&str; 6] = ["id", "tenant", "scopes", "claims", "method", "issuer"];
const TOOL: [&str; 2] = ["name", "annotations"];
const CLIENT: [&str; 1] = ["address"];
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"];
const FUNCTIONS: [&str; 25] = [
    "bool",
    "bytes",
    "charAt",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "format",
    "indexOf",
    "int",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "matches",
    "replace",
    "reverse",
    "size",
    "split",
    "startsWith",
    "string",
    "substring",
    "trim",
    "type",
    "uint",
    "upperAscii",
];

/// What a condition reads.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) reads_arguments: bool,
    /// Whether it loops over something.
    pub(super) loops: bool,
    /// Every key that it looks for by name.
    pub(super) keys: BTreeSet<String>,
}

/// What is wrong with a condition, and how to mend it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) message: String,
    pub(super) hint: String,
}

impl Survey {
    pub(super) fn of(root: &IdedExpr) -> Result<Self, Told> {
        if let Expr::Literal(literal) = &root.expr
            && !matches!(literal, LiteralValue::Boolean(_))
        {
            let message = "a condition is true or false, and this is neither".to_owned();
            return Err(Told { message, hint: "compare it with something".to_owned() });
        }
        let mut survey = Self::default();
        survey.visit(root, &mut Scope { bound: Vec::new(), depth: 0, loops: 0 })?;
        Ok(survey)
    }

    fn visit<'e>(&mut self, expr: &'e IdedExpr, scope: &mut Scope<'e>) -> Result<(), Told> {
        scope.depth += 1;
        if scope.depth > DEPTH_MAX {
            let message = "this condition is nested too deeply".to_owned();
            return Err(Told { message, hint: "write several rules".to_owned() });
        }
        match &expr.expr {
            Expr::Literal(_) | Expr::Unspecified => {}
            Expr::Ident(name) => self.variable(name, scope)?,
            Expr::Select(select) => {
                if !is_ours(&select.operand, scope) {
                    self.keys.insert(select.field.clone());
                }
                match &select.operand.expr {
                    Expr::Ident(name) if !scope.is_bound(name) && !fields(name).is_empty() => {
                        check_field(name, &select.field, select.test)?;
                    }
                    _ => self.visit(&select.operand, scope)?,
                }
            }
            Expr::Call(call) => self.call(call, scope)?,
            Expr::List(list) => self.all(&list.elements, scope)?,
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.visit(&entry.key, scope)?;
                        self.visit(&entry.value, scope)?;
                    }
                }
            }
            Expr::Comprehension(inner) => {
                self.visit(&inner.iter_range, scope)?;
                self.visit(&inner.accu_init, scope)?;
                // Only what is inside the outer item keeps the work in proportion to the arguments.
                if scope.loops > 0 && !is_within(&inner.iter_range, scope) {
                    let message =
                        "a loop in a loop runs over something else than its item".to_owned();
                    return Err(Told {
                        message,
                        hint: "write a.all(x, x.b.all(y, ...))".to_owned(),
                    });
                }
                self.loops = true;
                scope.loops += 1;
                if scope.loops > LOOPS_MAX {
                    let message = "this condition has loops in loops in loops".to_owned();
                    return Err(Told { message, hint: "write several rules".to_owned() });
                }
                let outer = scope.bound.len();
                scope.bound.extend([inner.iter_var.as_str(), inner.accu_var.as_str()]);
                scope.bound.extend(inner.iter_var2.as_deref());
                self.visit(&inner.loop_cond, scope)?;
                self.visit(&inner.loop_step, scope)?;
                self.visit(&inner.result, scope)?;
                scope.bound.truncate(outer);
                scope.loops -= 1;
            }
            Expr::Struct(_) => {
                let message = "this condition makes a message, of which none is known".to_owned();
                return Err(Told { message, hint: "write a map: {'key': value}".to_owned() });
            }
        }
        scope.depth -= 1;
        Ok(())
    }

    fn all<'e>(&mut self, list: &'e [IdedExpr], scope: &mut Scope<'e>) -> Result<(), Told> {
        list.iter().try_for_each(|expr| self.visit(expr, scope))
    }

    fn call<'e>(&mut self, call: &'e CallExpr, scope: &mut Scope<'e>) -> Result<(), Told> {
        let name = call.func_name.as_str();
        let is_operator = name.starts_with(['_', '!', '-', '@']);
        if !is_operator && !FUNCTIONS.contains(&name) {
            return Err(unknown("function", name, FUNCTIONS.into_iter()));
        }
        let literal = match (name, call.args.as_slice()) {
            (operators::INDEX, [_, key]) | (operators::IN, [key, _]) => Some(key),
            _ => None,
        };
        if let Some(IdedExpr { expr: Expr::Literal(LiteralValue::String(key)), .. }) = literal {
            self.keys.insert(key.inner().to_owned());
        }
        if let Some(target) = &call.target {
            self.visit(target, scope)?;
        }
        self.all(&call.args, scope)
    }

    fn variable(&mut self, name: &str, scope: &Scope<'_>) -> Result<(), Told> {
        if scope.is_bound(name) || TYPES.contains(&name) {
            return Ok(());
        }
        if let [first, ..] = fields(name) {
            return Err(Told {
                message: format!("`{name}` alone has no value"),
                hint: format!("write one of its parts, such as {name}.{first}"),
            });
        }
        if !VARIABLES.contains(&name) {
            return Err(unknown("variable", name, VARIABLES.into_iter()));
        }
        self.reads_arguments |= name == "arguments";
        Ok(())
    }
}

struct Scope<'e> {
    bound: Vec<&'e str>,
    depth: usize,
    loops: usize,
}

impl Scope<'_> {
    fn is_bound(&self, name: &str) -> bool {
        self.bound.contains(&name)
    }
}

/// Whether a value is a part of a loop's item, or written out.
fn is_within(expr: &IdedExpr, scope: &Scope<'_>) -> bool {
    match &expr.expr {
        Expr::Ident(name) => scope.is_bound(name),
        Expr::Select(select) => is_within(&select.operand, scope),
        Expr::Call(call) if call.func_name == operators::INDEX => {
            call.args.first().is_some_and(|item| is_within(item, scope))
        }
        Expr::List(_) => true,
        _ => false,
    }
}

/// Whether a value is one that the gateway made, and not one that a client wrote.
fn is_ours(expr: &IdedExpr, scope: &Scope<'_>) -> bool {
    match &expr.expr {
        Expr::Ident(name) => !scope.is_bound(name) && !fields(name).is_empty(),
        Expr::Select(select) => is_ours(&select.operand, scope),
        _ => false,
    }
}

/// The parts of a variable that has no value of its own.
fn fields(name: &str) -> &'static [&'static str] {
    match name {
        "caller" => &CALLER,
        "tool" => &TOOL,
        "client" => &CLIENT,
        _ => &[],
    }
}

fn check_field(name: &str, field: &str, test: bool) -> Result<(), Told> {
    let known = fields(name);
    if !known.contains(&field) {
        return Err(unknown("part", field, known.iter().copied()));
    }
    if test {
        return Err(Told {
            message: format!("`{name}.{field}` is always there"),
            hint: format!("write {name}.{field} != null"),
        });
    }
    Ok(())
}

fn unknown(kind: &str, name: &str, known: impl Iterator<Item = &'static str> + Clone) -> Told {
    let hint = match nearest(name, known.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Told { message: format!("this condition names `{name}`, a {kind} that does not exist"), hint }
}
