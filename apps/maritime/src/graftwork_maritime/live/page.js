// One exchange at a time: what is typed goes out as a form, what comes back is shown as text, never as HTML.
const of = (id) => document.getElementById(id);
const KEYS = {
  kind: "traffic", category: "nature", name: "vessel", mmsi: "MMSI", call_sign: "call sign", position: "position",
  persons: "persons on board", help: "help asked for", acknowledged: "acknowledged", procedure: "procedure",
  stations: "stations heard",
};
const NAMES = { ship: "ship", coast: "coast station" };
let session = null;
let role = "ship"; // that the partner plays
let lines = 0;
let known = {}; // names of the exercise

function part(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// As on a chart: 48.2105 is 48° 12.63′ N.
function axis(degrees, width, sides) {
  const hundredths = Math.round(Math.abs(degrees) * 6000);
  const whole = String(Math.floor(hundredths / 6000)).padStart(width, "0");
  const minutes = ((hundredths % 6000) / 100).toFixed(2).padStart(5, "0");
  return `${whole}° ${minutes}′ ${sides[degrees < 0 ? 1 : 0]}`;
}

function shown(key, value) {
  if (value === null || value === undefined || value.length === 0) return "–";
  if (key === "position") return axis(value[0], 2, "NS") + ", " + axis(value[1], 3, "EW");
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function add(turn, note, violations) {
  const item = document.createElement("li");
  item.className = turn ? turn.speaker : "still";
  if (turn) {
    lines += 1;
    item.append(part("span", `${lines} · ${turn.name || turn.speaker}${note ? " · " + note : ""}`, "who"));
    item.append(part("span", turn.text));
    for (const one of violations.filter((v) => v.line === lines)) item.append(part("span", one.rule, "found"));
  } else {
    item.append(part("span", note));
  }
  of("log").append(item);
  item.scrollIntoView({ block: "nearest" });
}

function show(step) {
  if (step.heard) add(step.heard, "", step.state.violations);
  const seconds = `${step.kind}, ${step.by}, ${step.seconds.toFixed(2)} s`;
  if (step.reply) add(step.reply, seconds, step.state.violations);
  else if (step.heard || role === "ship") add(null, `The ${NAMES[role]} is silent (${step.by}).`, []);
  else add(null, "The coast station listens. Make your call.", []);
  of("state").replaceChildren(...Object.entries(KEYS).map(([key, label]) => {
    const row = document.createElement("tr");
    row.append(part("th", label), part("td", shown(key, step.state[key])));
    row.dataset.key = key;
    return row;
  }));
  of("violations").replaceChildren(...step.state.violations.map((v) => {
    const item = part("li", `Turn ${v.line}: ${v.text} (${v.rule}). `);
    item.append(part("span", v.remedy, "remedy"));
    return item;
  }));
  of("none").hidden = step.state.violations.length > 0;
}

async function send(path, fields) {
  const form = new FormData();
  form.set("token", of("live").dataset.token);
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  const buttons = document.querySelectorAll("#live button");
  buttons.forEach((b) => { b.disabled = true; });
  of("problem").textContent = "";
  try {
    const answer = await fetch(path, { method: "POST", body: form });
    if (!answer.ok) throw new Error(`The page answered ${answer.status}. Load it again.`);
    const step = await answer.json();
    if (step.error) throw new Error(step.error);
    return step;
  } catch (error) {
    of("problem").textContent = error.message;
    return null;
  } finally {
    buttons.forEach((b) => { b.disabled = false; });
    of("text").focus();
  }
}

async function say(text) {
  if (session === null) return;
  const other = of("speaker").value === "other";
  const named = other && of("name").value.trim() ? { name: of("name").value.trim() } : {};
  const speaker = other ? "other" : role === "ship" ? "coast" : "ship";
  const step = await send("/turn", { session, text, speaker, ...named });
  if (step) {
    of("text").value = "";
    show(step);
  }
}

async function open() {
  const step = await send("/open", { index: of("index").value, seed: of("seed").value, role: of("role").value });
  if (!step) return;
  session = step.session;
  role = step.role;
  lines = 0;
  of("log").replaceChildren();
  of("facts").textContent = JSON.stringify(step.scenario, null, 1);
  known = { station: step.scenario.station.name, vessel: step.scenario.vessel.name };
  const own = role === "ship" ? "coast" : "ship";
  of("you").textContent = own === "coast" ? known.station : known.vessel;
  of("they").textContent = `The ${NAMES[role]}`;
  of("own").textContent = NAMES[own];
  document.querySelectorAll("button[data-part]").forEach((b) => { b.hidden = b.dataset.part !== role; });
  show(step);
  of("live").dataset.state = "open";
}

of("begin").addEventListener("submit", (event) => { event.preventDefault(); open(); });
of("say").addEventListener("submit", (event) => {
  event.preventDefault();
  if (of("text").value.trim()) say(of("text").value);
});
of("speaker").addEventListener("change", () => { of("called").hidden = of("speaker").value !== "other"; });
of("nothing").addEventListener("click", () => say(""));
document.querySelectorAll("button[data-text]").forEach((button) => button.addEventListener("click", () => {
  of("text").value = button.dataset.text.replace(/{(\w+)}/g, (_, name) => known[name]);
  of("text").focus();
}));
open();
