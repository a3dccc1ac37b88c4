//! CEL, the expression language of policies and validation rules, with Kubernetes' libraries.
//!
//! A [`Program`] is compiled once: parsed, names and types checked as upstream does, and then evaluated against
//! [`Bindings`]. Evaluation has no effects, is bounded in cost (upstream's units and limits) and never panics. There is no
//! crate whose evaluator counts cost or checks types, and both decide what a server may accept; so this one is our own.
//! Knows JSON and the schema table, nothing of requests.

mod check;
mod estimate;
mod eval;
pub mod functions;
mod parse;
#[cfg(test)]
mod tests;
mod types;
mod value;

use serde_json::Value;

pub use self::estimate::most_values;
pub use self::eval::Bindings;
use self::eval::Run;
pub use self::functions::authorizer::{Authorizer, Question};
use self::parse::{Expr, Fault};
pub use self::types::{Env, ObjectType, Type, escape};
pub use self::value::Tree;
use self::value::Val;

/// Most cost units that one evaluation may spend.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Most cost units that all expressions of a policy, or of an object's rules, may spend together.
pub const TOTAL_LIMIT: u64 = 10_000_000;
/// Most cost units that a rule of a schema may be estimated to spend on one object.
pub const RULE_LIMIT: u64 = 10_000_000;
/// Most cost units that all match conditions of a webhook or policy may spend together.
pub const MATCH_CONDITIONS_LIMIT: u64 = 2_500_000;

/// Why an expression was refused, in upstream's form with its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// `ERROR: <input>:1:7: what\n | source\n | ......^`
    pub message: String,
}

impl CompileError {
    fn new(source: &str, Fault(pos, what): &Fault) -> Self {
        let before = source.get(..*pos).unwrap_or(source);
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let text = source.split('\n').nth(line).unwrap_or_default();
        let dots = ".".repeat(column);
        Self { message: format!("ERROR: <input>:{}:{}: {what}\n | {text}\n | {dots}^", line + 1, column + 1) }
    }
}

/// Why an evaluation gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The budget is spent.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
    /// The expression does not work on these values.
    #[error("{0}")]
    Runtime(String),
}

impl Error {
    pub(crate) fn no_overload(_function: &str) -> Self {
        Self::Runtime("no such overload".to_owned())
    }
}

/// Cost units that several evaluations share.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// This many units.
    pub fn new(units: u64) -> Self {
        Self { left: units }
    }

    /// Nothing is left.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }
}

/// A checked expression.
#[derive(Debug)]
pub struct Program {
    env: Env,
    expr: Expr,
    output: Type,
}

impl Program {
    /// Compiles an expression that may use what the environment declares.
    ///
    /// # Errors
    /// Syntax, unknown names, types that do not fit; with the position.
    pub fn compile(source: &str, env: &Env) -> Result<Self, CompileError> {
        let fail = |fault: Fault| CompileError::new(source, &fault);
        let mut expr = parse::parse(source).map_err(fail)?;
        let output = check::check(env, &mut expr).map_err(fail)?;
        Ok(Self { env: env.clone(), expr, output })
    }

    /// Compiles an expression whose result must be of one of the types.
    ///
    /// # Errors
    /// As [`Program::compile`], or `must evaluate to …`.
    pub fn compile_as(source: &str, env: &Env, wanted: &[Type]) -> Result<Self, CompileError> {
        let program = Self::compile(source, env)?;
        let fits = |ty: &Type| matches!(ty, Type::Dyn) || ty.to_string() == program.output.to_string();
        if matches!(program.output, Type::Dyn) || wanted.iter().any(fits) {
            return Ok(program);
        }
        let message = match wanted {
            [only] => format!("must evaluate to {only}"),
            several => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                format!("must evaluate to one of the types: {names:?}").replace('"', "")
            }
        };
        Err(CompileError { message })
    }

    /// The result's type as far as it is known.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// Whether the expression uses this name of the environment.
    pub fn uses(&self, name: &str) -> bool {
        self.env.vars.iter().rposition(|(var, _)| var == name).is_some_and(|at| parse::uses(&self.expr, at))
    }

    /// Evaluates to JSON; what it costs is taken from the budget.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn eval<'a>(&'a self, bindings: &Bindings<'a>, budget: &mut Budget) -> Result<Value, Error> {
        self.run(bindings, budget)?.to_json()
    }

    fn run<'a>(&'a self, bindings: &Bindings<'a>, budget: &mut Budget) -> Result<Val<'a>, Error> {
        let granted = budget.left.min(PER_CALL_LIMIT);
        let mut run = Run { program: self, bindings, locals: Vec::new(), left: granted };
        let result = run.eval(&self.expr);
        let spent = if matches!(result, Err(Error::CostExceeded)) { granted } else { granted - run.left };
        budget.left -= spent;
        result
    }
}
