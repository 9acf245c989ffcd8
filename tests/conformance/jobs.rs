//! Tools of the tasks extension: the call returns a task, and the client asks later how it went.

use super::offer::typed;
use super::rounds;
use super::tools::{failure, text};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, CreateTaskResult,
    ErrorData,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::task_manager::{TaskContext, TaskExit, TaskManager, TaskOptions};
use serde_json::Value;
use std::time::Duration;
use tokio::time::sleep;

/// The answer of a tool of this module; `None` for every other tool.
pub(crate) async fn call(
    tasks: &TaskManager,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<Option<CallToolResponse>, ErrorData> {
    let knows_tasks = context.client_capabilities().is_some_and(|can| can.supports_tasks());
    let argument = |name: &str| request.arguments.as_ref().and_then(|all| all.get(name));
    let job: Job = match request.name.as_ref() {
        "slow_compute" => {
            let seconds = argument("seconds").and_then(Value::as_f64).unwrap_or(1.0);
            let pause = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            if !knows_tasks {
                sleep(pause).await;
                return Ok(Some(text("computed").into()));
            }
            Job::Compute(pause)
        }
        "failing_job" => Job::Fail,
        "protocol_error_job" => Job::ProtocolError,
        "confirm_delete" => {
            let file = argument("filename").and_then(Value::as_str).unwrap_or("the file");
            Job::Ask(vec![("confirm".into(), format!("Delete {file}?"))])
        }
        "multi_input" => Job::Ask(vec![
            ("first".into(), "What is the first name?".into()),
            ("second".into(), "What is the second name?".into()),
        ]),
        "test_tool_with_task" => match rounds::name(request.input_responses.as_ref()) {
            Some(name) => Job::Greet(name.to_owned()),
            None => return Ok(Some(rounds::ask_name()?.into())),
        },
        _ => return Ok(None),
    };
    if !knows_tasks {
        let needed = ClientCapabilities::builder().enable_tasks().build();
        return Err(ErrorData::missing_required_client_capability(needed));
    }
    let options = TaskOptions::new().with_poll_interval_ms(100);
    let task = tasks.spawn(options, |context| Box::pin(job.run(context)));
    Ok(Some(CreateTaskResult::new(task).into()))
}

/// What a task does.
enum Job {
    Compute(Duration),
    Fail,
    ProtocolError,
    Greet(String),
    /// Questions that are open at the same time: key and message.
    Ask(Vec<(String, String)>),
}

impl Job {
    async fn run(self, task: TaskContext) -> Result<CallToolResult, TaskExit> {
        match self {
            Self::Compute(pause) => tokio::select! {
                () = sleep(pause) => Ok(text("computed")),
                () = task.cancelled() => Err(TaskExit::Cancelled),
            },
            Self::Fail => {
                sleep(Duration::from_secs(1)).await;
                Ok(failure("The job failed"))
            }
            Self::ProtocolError => {
                Err(TaskExit::Error(ErrorData::internal_error("The job broke", None)))
            }
            Self::Greet(name) => Ok(text(format!("Hello, {name}!"))),
            Self::Ask(questions) => {
                let answers = questions.into_iter().map(|(key, message)| {
                    let task = task.clone();
                    async move {
                        let question = typed(rounds::elicitation(&message, "name"))?;
                        task.request_input(key, question).await
                    }
                });
                let answers = futures::future::try_join_all(answers).await?;
                Ok(text(format!("The client says: {}", Value::Array(answers))))
            }
        }
    }
}
