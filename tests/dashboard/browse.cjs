// Uses the dashboard as an operator would, in a real browser, and says of each step whether it passed.
"use strict";
const assert = require("node:assert/strict");
const path = require("node:path");
const { chromium } = require("playwright-core");

const task = JSON.parse(process.argv[2]);
const complaints = [];
let failed = 0;

async function step(name, work) {
  try {
    const told = await work();
    console.log(`passed  ${name}${told ? `: ${told}` : ""}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error.message}`);
  }
}

async function main() {
  const options = task.browser ? { executablePath: task.browser } : {};
  const browser = await chromium.launch({ ...options, args: ["--no-sandbox"] });
  console.log(`browser ${browser.version()}`);
  const page = await browser.newPage({ viewport: { width: 1500, height: 1000 }, colorScheme: "light" });
  page.setDefaultTimeout(15000);
  page.on("console", (message) => { if (message.type() === "error" || message.type() === "warning") complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  const shot = async (name) => {
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: path.join(task.pictures, `${name}.png`), fullPage: true });
  };
  const signIn = async (token) => {
    await page.getByLabel("Admin token").fill(token);
    await page.keyboard.press("Enter");
  };
  const rows = (table) => page.locator(`#${table} tbody tr`);
  const cells = (table, number) => page.locator(`#${table} tbody td:nth-child(${number})`).allTextContents();
  const value = (text) => Number.parseFloat(text) * (text.endsWith("k") ? 1000 : 1);
  const until = (what, wanted) => page.waitForFunction(what, wanted);

  await step("the page asks for a token and shows nothing", async () => {
    await page.goto(task.url);
    assert.equal(await page.locator("main").isVisible(), false);
    assert.equal(await page.evaluate(() => document.activeElement.id), "token");
    await shot("sign-in");
  });
  await step("a wrong token is refused, and forgotten", async () => {
    await signIn("wrong");
    await page.getByText("this token is not known").waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    // The browser itself says in its console that the answer was a 401.
    const own = complaints.splice(0);
    assert.ok(own.length === 1 && own[0].includes("401"), own.join("; "));
  });
  await step("a token to read shows everything and drains nothing", async () => {
    await signIn(task.tokens.read);
    await rows("endpoints").first().waitFor();
    assert.equal(await page.locator("#endpoints tbody button:enabled").count(), 0);
    assert.equal(await page.evaluate(() => localStorage.length + document.cookie.length), 0);
    await page.getByRole("button", { name: "Sign out" }).click();
    assert.equal(await page.locator("main").isVisible(), false);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    assert.equal(await rows("endpoints").count(), 0, "signed out, and rows stay");
  });
  await step("calls are shown by tool, caller and server, with rates", async () => {
    await signIn(task.tokens.operate);
    await page.getByLabel("Rows").selectOption("all");
    await until(({ tools, callers }) => {
      const count = (id) => document.querySelectorAll(`#${id} tbody tr`).length;
      return count("tools") >= tools && count("callers") >= callers;
    }, task);
    await page.waitForTimeout(12000);
    const rates = (await cells("tools", 3)).map(value);
    const callers = (await cells("callers", 2)).map(value);
    const sum = (list) => list.reduce((all, one) => all + one, 0);
    const told = value(await page.locator("#cards div", { hasText: "Requests/s" }).locator("dd").first().textContent());
    assert.ok(told > 5, `${told} per second`);
    // Of one moment each, and rounded: near to each other, though.
    assert.ok(sum(rates) > told / 2 && sum(callers) > told / 2, `${sum(rates)} ${sum(callers)} ${told}`);
    assert.ok(rates.every((rate, at) => at === 0 || rates[at - 1] >= rate), "not sorted by rate");
    return `${await rows("tools").count()} tools, ${await rows("callers").count()} callers, ${told} per second`;
  });
  await step("with every row a second's work is small", async () => {
    const [asking, bytes, drawing] = await page.evaluate(async () => {
      const asked = performance.now();
      const live = await ask("GET", "/v1/live");
      const began = performance.now();
      for (let turn = 0; turn < 5; turn += 1) render();
      return [began - asked, JSON.stringify(live).length, (performance.now() - began) / 5];
    });
    assert.ok(drawing < 500, `${drawing} ms`);
    assert.ok(bytes < 1e6, `${bytes} bytes`);
    return `${(bytes / 1000).toFixed(0)} kB asked for in ${asking.toFixed(0)} ms, drawn in ${drawing.toFixed(0)} ms`;
  });
  await step("what a stranger wrote stays words", async () => {
    const found = rows("tools").filter({ hasText: task.hostile });
    await found.first().waitFor();
    assert.equal(await page.locator("main img").count(), 0);
    assert.equal(await page.title(), "Toolgate");
  });
  await step("tables are filtered and sorted by keyboard", async () => {
    await page.locator("main").focus();
    await page.keyboard.press("/");
    await page.keyboard.type("TOOL-0499");
    await until(() => document.querySelectorAll("#tools tbody tr").length === 1);
    assert.equal((await cells("tools", 1))[0], "tool-0499");
    await page.keyboard.press("Escape");
    await page.getByLabel("Rows").selectOption("10");
    const head = page.locator("#tools thead button").first();
    await head.focus();
    await page.keyboard.press("Enter");
    assert.equal(await page.locator("#tools thead th").first().getAttribute("aria-sort"), "ascending");
    assert.equal((await cells("tools", 1)).filter((name) => name.startsWith("tool-"))[0], "tool-0000");
    assert.equal(await rows("tools").count(), 10);
    await page.locator("#tools thead button").nth(2).click();
  });
  await step("errors, refusals, rules, limits and latency are told", async () => {
    await until(() => ["rules", "limits", "reasons", "denials", "routes"].every((id) => document.querySelector(`#${id} tbody tr`)));
    await rows("rules").filter({ hasText: "no-shell" }).first().waitFor();
    await rows("rules").filter({ hasText: "shadow: refused" }).first().waitFor();
    await rows("limits").filter({ hasText: "per-caller" }).first().waitFor();
    await rows("reasons").filter({ hasText: "policy_hidden" }).first().waitFor();
    const flaky = rows("servers").filter({ hasText: "failing" }).first();
    assert.match(await flaky.locator("td").nth(2).textContent(), /^[1-9][0-9.]* %$/);
    await page.locator("#endpoints thead button", { hasText: "errors/s" }).click();
    await until(() => /gone/.test(document.querySelector("#endpoints tbody tr").textContent));
    assert.match((await cells("routes", 4))[0], /[0-9] (µs|ms|s)$/);
    await page.locator("#endpoints thead button", { hasText: "server" }).click();
  });
  await step("an endpoint is drained and taken back by keyboard", async () => {
    const row = rows("endpoints").filter({ hasText: "server-0" }).first();
    await row.getByRole("button").focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await shot("drain");
    await page.getByLabel("Sessions move at the latest after").fill("1m");
    await page.keyboard.press("Enter");
    await row.getByText("draining").waitFor();
    const undrain = row.getByRole("button", { name: "Undrain" });
    await undrain.focus();
    await page.keyboard.press("Enter");
    await page.locator("#dialog-yes").focus();
    await page.keyboard.press("Enter");
    await row.locator("button:text-is('Drain')").waitFor();
    assert.match(await row.textContent(), /serving|warming/);
  });
  await step("the configuration is shown without secrets", async () => {
    await page.locator("summary").click();
    await page.locator("#files pre").first().waitFor();
    const text = await page.locator("#files").textContent();
    assert.ok(text.includes("agent-0999") && text.includes("no-shell") && text.includes("sha256: ****"));
    assert.ok(!text.includes("a-session-key") && !/[0-9a-f]{64}/.test(text));
    await page.locator("summary").click();
  });
  await step("pictures are taken, light, dark and narrow", async () => {
    await page.locator("#main").focus();
    await shot("light");
    await page.emulateMedia({ colorScheme: "dark" });
    await shot("dark");
    await page.setViewportSize({ width: 420, height: 900 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${wide} pixels too wide`);
    await shot("narrow");
  });
  await step("nothing broke and nothing was forbidden", async () => {
    assert.deepEqual(complaints, []);
    assert.deepEqual(await page.evaluate(() => window.violations), []);
  });
  await step("a page that did break the policy would have been noticed", async () => {
    await page.evaluate(() => {
      const script = document.createElement("script");
      script.append("document.title = 'owned'");
      document.body.append(script);
    }).catch(() => {});
    await until(() => window.violations.length > 0);
    assert.equal(await page.title(), "Toolgate");
  });
  await browser.close();
}

main().then(() => process.exit(failed ? 1 : 0), (error) => {
  console.error(error);
  process.exit(1);
});
