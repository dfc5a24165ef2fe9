"""The page on which people compare pairs of videos; SETTINGS is replaced by JSON."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Which video is better?</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; color: #222;
  padding: 0 1rem }
#videos { display: flex; gap: 1rem }
#videos div { flex: 1 } video { width: 100%; background: #000 }
fieldset { border: 0; padding: .35rem 0; margin: 0; border-bottom: 1px solid #ddd }
legend { font-weight: 600; padding: 0 } label { margin-right: 1.5rem }
button { font: inherit; padding: .4rem 1.2rem } #error, #refused { color: #a00 }
</style>
<h1>Which video is better?</h1>
<form id="start"><p>Watch both videos with their sound, then answer the five questions.</p>
<label>Your name: <input id="rater" maxlength="40" required pattern="[\\w .\\-]+"></label>
<button>Begin</button><p>A name that has begun before goes on where it stopped.</p>
<p id="refused"></p></form>
<form id="pair" hidden><p id="count"></p>
<div id="videos"><div>Left<video id="left" controls playsinline></video></div>
<div>Right<video id="right" controls playsinline></video></div></div>
<p><button type="button" id="both">Play both, sound from the left</button></p>
<div id="questions"></div><p id="error"></p><button>Next</button></form>
<p id="end" hidden>Thank you, that was all. You may close this page.</p>
<script>
const settings = SETTINGS;
const at = id => document.getElementById(id);
let order = [], now = 0, rater = "";
for (const [key, text] of Object.entries(settings.questions)) {
  const set = document.createElement("fieldset"), legend = document.createElement("legend");
  legend.textContent = text; set.append(legend);
  for (const [value, word] of [["left", "left"], ["same", "no difference"], ["right", "right"]]) {
    const label = document.createElement("label"), radio = document.createElement("input");
    radio.type = "radio"; radio.name = key; radio.value = value; radio.required = true;
    label.append(radio, " " + word); set.append(label);
  }
  at("questions").append(set);
}
function show() {
  if (now >= order.length) { at("pair").hidden = true; at("end").hidden = false; return; }
  at("count").textContent = `Pair ${now + 1} of ${order.length}`;
  for (const side of ["left", "right"])
    at(side).src = `/video/${order[now]}/${side}?rater=${encodeURIComponent(rater)}`;
  at("pair").reset(); at("error").textContent = ""; scrollTo(0, 0);
}
at("start").onsubmit = async event => {
  event.preventDefault(); rater = at("rater").value.trim();
  try {
    const reply = await fetch(`/pairs?rater=${encodeURIComponent(rater)}`);
    if (!reply.ok) throw new Error(await reply.text());
    order = await reply.json();
  } catch (error) { at("refused").textContent = error.message; return; }
  at("start").hidden = true; at("pair").hidden = false; show();
};
at("both").onclick = () => {
  at("right").muted = true;
  for (const side of ["left", "right"]) { at(side).currentTime = 0; at(side).play(); }
};
at("pair").onsubmit = async event => {
  event.preventDefault();
  const answers = Object.fromEntries(new FormData(at("pair")));
  const body = JSON.stringify({ key: settings.key, rater, pair: order[now], answers });
  try {
    const reply = await fetch("/vote", { method: "POST", body });
    if (!reply.ok) throw new Error(await reply.text());
    now += 1; at("right").muted = false; show();
  } catch (error) { at("error").textContent = `Not saved: ${error.message}`; }
};
</script></html>
"""
