"""The page that shows clips one after the other; keys decide."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Review</title>
<style>
body { font: 16px sans-serif; margin: 2em auto; max-width: 40em; background: #fafafa }
video { width: 100%; max-width: 512px; background: #000; display: block }
td { padding: 0 1em 0 0 }
.said { font-weight: bold }
kbd { border: 1px solid #999; padding: 0 .3em }
</style>
<h1>Review</h1>
<p><kbd>k</kbd> keep, <kbd>d</kbd> drop, <kbd>&larr;</kbd> <kbd>&rarr;</kbd> move,
<kbd>space</kbd> play. <span id="place"></span> <span id="said" class="said"></span></p>
<video id="video" controls autoplay loop></video>
<p id="name"></p><table id="scores"></table>
<script>
let clips = [], at = 0;
const byId = id => document.getElementById(id);
function show() {
  const clip = clips[at];
  byId("video").src = "clip/" + clip.number + ".mp4";
  byId("place").textContent = (at + 1) + " of " + clips.length;
  byId("said").textContent = clip.decision || "";
  byId("name").textContent = clip.name;
  const rows = Object.entries(clip.scores).map(([name, value]) => {
    const row = document.createElement("tr");
    for (const text of [name, value.toPrecision(3)]) {
      row.appendChild(document.createElement("td")).textContent = text;
    }
    return row;
  });
  byId("scores").replaceChildren(...rows);
}
async function decide(decision) {
  const clip = clips[at];
  const answer = await fetch("decide", {method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({clip: clip.name, decision: decision})});
  if (!answer.ok) { byId("said").textContent = "not saved"; return; }
  clip.decision = decision;
  at = Math.min(at + 1, clips.length - 1);
  show();
}
document.addEventListener("keydown", event => {
  if (event.key === "k") decide("keep");
  else if (event.key === "d") decide("drop");
  else if (event.key === "ArrowRight") { at = Math.min(at + 1, clips.length - 1); show(); }
  else if (event.key === "ArrowLeft") { at = Math.max(at - 1, 0); show(); }
  else if (event.key === " ") {
    const video = byId("video"); video.paused ? video.play() : video.pause();
    event.preventDefault();
  }
});
fetch("clips").then(answer => answer.json()).then(found => { clips = found; show(); });
</script></html>
"""
