/** Asks before something is done. The browser's own dialog keeps the focus in it, and gives it back. */
import { Button } from "@cloudflare/kumo/components/button";
import { type ReactNode, useId, useLayoutEffect, useRef, useState } from "react";
import { ExplainedError } from "./explained.tsx";

export function ConfirmDialog({
  title,
  confirm,
  onConfirm,
  onClose,
  children,
}: {
  title: string;
  /** what the button says that does it */
  confirm: string;
  /** closes the dialog itself once it is done; where it fails, the dialog says so and stays */
  onConfirm: () => Promise<void>;
  onClose: () => void;
  children: ReactNode;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  const [isBusy, setBusy] = useState(false);
  const [refused, setRefused] = useState<unknown>(undefined);
  // Closed while it is still in the page: only then does the focus go back to where it was.
  useLayoutEffect(() => {
    const element = dialog.current;
    if (element?.open === false) element.showModal();
    return () => element?.close();
  }, []);
  const act = async () => {
    setBusy(true);
    setRefused(undefined);
    try {
      await onConfirm();
    } catch (error) {
      setRefused(error);
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} className="dialog" aria-labelledby={id} onCancel={onClose}>
      <h2 id={id}>{title}</h2>
      <div className="dialog-body">{children}</div>
      {refused === undefined ? null : <ExplainedError error={refused} />}
      <div className="dialog-actions">
        <Button onClick={onClose}>Leave it</Button>
        <Button variant="primary" className="plain-button" loading={isBusy} onClick={() => void act()}>
          {confirm}
        </Button>
      </div>
    </dialog>
  );
}
