// Quick hover texts in place of the browser's, magnification around the pointer, and networks to single out.
"use strict";
{
  const scroll = document.querySelector(".scroll");
  const radios = [...document.querySelectorAll(".zoom input")];

  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  for (const title of scroll.querySelectorAll("title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.remove();
  }
  scroll.addEventListener("pointermove", (event) => {
    const box = event.target.closest("[data-tip]");
    tip.hidden = !box;
    if (!box) return;
    tip.textContent = box.dataset.tip;
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const top = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  });
  scroll.addEventListener("pointerleave", () => { tip.hidden = true; });

  // Keeps what is at `x` pixels from the left of the view where it is.
  let at = 0;
  function magnify(radio, x = scroll.clientWidth / 2) {
    const share = (scroll.scrollLeft + x) / scroll.scrollWidth;
    radio.checked = true;
    scroll.scrollLeft = share * scroll.scrollWidth - x;
    at = radios.indexOf(radio);
  }
  for (const radio of radios) {
    radio.addEventListener("change", () => {
      radios[at].checked = true;
      magnify(radio);
    });
  }
  scroll.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const next = radios[at + (event.deltaY < 0 ? 1 : -1)];
    if (next) magnify(next, event.clientX - scroll.getBoundingClientRect().left);
  }, { passive: false });

  for (const entry of document.querySelectorAll(".legend li")) {
    const look = entry.firstElementChild.classList[0];
    if (!/^n\d+$/.test(look)) continue;
    entry.style.cursor = "pointer";
    entry.title = "single out this network";
    entry.addEventListener("click", () => {
      const single = entry.ariaPressed !== "true";
      for (const other of document.querySelectorAll(".legend li")) other.ariaPressed = "false";
      entry.ariaPressed = String(single);
      for (const box of scroll.querySelectorAll("rect.box:not(.hit), .areas path")) {
        box.classList.toggle("dim", single && !box.classList.contains(look));
      }
    });
  }
}
