// Copies a link for those whose browser can; the others select it themselves.

for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("input").value);
    button.textContent = button.dataset.copied;
  });
}
